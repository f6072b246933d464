"""Wrong labels: the requested number, all wrong, equally likely, at the given indices."""

import numpy as np
import pytest

from dkszoo.data import View, corrupt_labels, open_dataset

TARGETS = np.random.default_rng(0).integers(0, 10, 5000).tolist()


@pytest.mark.parametrize('share', [0.0, 0.003, 1 / 3, 0.5, 0.8, 1.0])
def test_exactly_that_share_becomes_another_class(share):
    labels, flips = corrupt_labels(TARGETS, share, 10, seed=3)
    wrong = [i for i, (new, old) in enumerate(zip(labels, TARGETS, strict=True)) if new != old]
    assert len(wrong) == round(share * 5000)
    assert [flip.index for flip in flips] == wrong
    assert all((flip.old, flip.new) == (TARGETS[flip.index], labels[flip.index]) for flip in flips)
    assert set(labels) <= set(range(10))


def test_every_wrong_class_is_as_likely():
    _, flips = corrupt_labels(TARGETS * 4, 1.0, 10, seed=1)
    counts = np.zeros((10, 10))
    for _, old, new in flips:
        counts[old, new] += 1
    off = counts[~np.eye(10, dtype=bool)]
    expected = len(flips) / 90
    # Chi-squared with 80 degrees of freedom (row sums are fixed): above 125 once in a thousand.
    assert ((off - expected) ** 2 / expected).sum() < 150
    assert not counts.diagonal().any()


def test_the_seed_decides_and_shares_are_nested():
    half, flips = corrupt_labels(TARGETS, 0.5, 10, seed=1)
    assert corrupt_labels(TARGETS, 0.5, 10, seed=1)[0] == half
    assert corrupt_labels(TARGETS, 0.5, 10, seed=2)[0] != half
    assert set(flips) <= set(corrupt_labels(TARGETS, 0.8, 10, seed=1)[1])


def test_indices_are_the_data_set_s():
    labels, flips = corrupt_labels([0, 1, 1], 1.0, 2, indices=[7, 9, 40])
    assert labels == [1, 0, 0]
    assert [tuple(flip) for flip in flips] == [(7, 0, 1), (9, 1, 0), (40, 1, 0)]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'from 0 to 1, got 1\.2'):
        corrupt_labels(TARGETS, 1.2, 10)
    with pytest.raises(ValueError, match='at least two classes'):
        corrupt_labels([0, 0], 0.5, 1)


def test_a_view_shows_them():
    base = open_dataset('digits', None, 'train')
    view = View(base, [3, 5], 'L')
    view.targets = [8, 9]
    assert [view[0][1], view[1][1]] == [8, 9]
    assert view[0][0].tobytes() == base[3][0].tobytes()
