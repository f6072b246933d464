"""Splits with an empty part are rejected."""

import pytest

from dkszoo.data import split_indices


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
