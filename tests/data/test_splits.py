"""Splits with an empty part are rejected."""

from collections import Counter

import numpy as np
import pytest

from dkszoo.data.splits import balanced_subset, split_indices


@pytest.mark.parametrize('targets', [None, [0, 0, 0, 0], [0, 0, 1, 1]])
@pytest.mark.parametrize('fraction', [0.1, 0.9])
def test_neither_part_is_empty(targets, fraction):
    how = '' if targets is None else ', class by class,'
    with pytest.raises(ValueError, match=f'^holding out {fraction} of 4 samples{how} leaves one part empty'):
        split_indices(4, targets, fraction)


@pytest.mark.parametrize('fraction', [-0.1, 1.0])
def test_shares(fraction):
    with pytest.raises(ValueError, match='at least 0 and below 1'):
        split_indices(4, None, fraction)


def test_samples_of_one_rank_are_taken_in_the_order_drawn():
    """Whatever the sort of the machine does with equal ranks."""
    order, seen, ranks = np.random.default_rng(0).permutation(1000).tolist(), Counter(), {}
    for i in order:
        ranks[i] = seen[i % 10]
        seen[i % 10] += 1
    expected = sorted(sorted(order, key=ranks.get)[:505])
    assert balanced_subset(range(1000), [i % 10 for i in range(1000)], 505) == expected
