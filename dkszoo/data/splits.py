"""Splitting a data set into two parts, the same way every time."""

from collections.abc import Sequence

import numpy as np


def split_indices(total: int, targets: Sequence[int] | None, fraction: float) -> tuple[list[int], list[int]]:
    """Indices of the larger and of the smaller part.

    The split depends on nothing else.

    Args:
        total: Number of samples.
        targets: Their classes, to keep each class in proportion; None: at random.
        fraction: Share of the second part, 0 to below 1.

    Returns:
        Two ascending lists that together hold every index once.

    Raises:
        ValueError: The fraction is outside [0, 1) or leaves one part without samples.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f'the share held out must be at least 0 and below 1, got {fraction}')
    if fraction == 0:
        return list(range(total)), []
    order = np.random.default_rng(0).permutation(total)
    if targets is None:
        held = order[: round(total * fraction)]
    else:
        shuffled = np.asarray(targets)[order]
        _, classes, counts = np.unique(shuffled, return_inverse=True, return_counts=True)
        held = order[ranks(shuffled) < np.round(counts * fraction)[classes]]
    if len(held) in (0, total):
        raise ValueError(f'holding out {fraction} of {total} samples leaves one part empty (choose another share)')
    mask = np.zeros(total, dtype=bool)
    mask[held] = True
    return np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()


def balanced_subset(indices: Sequence[int], targets: Sequence[int] | None, count: int) -> list[int]:
    """`count` of the indices, as many of each class as there are to be had.

    The choice depends on nothing else, and a larger subset holds every smaller one.

    Args:
        indices: To choose from.
        targets: The classes of all samples, by index; None: at random.
        count: How many.

    Returns:
        An ascending list.

    Raises:
        ValueError: `count` is not 1 to the number of indices.
    """
    if not 1 <= count <= len(indices):
        raise ValueError(f'cannot train on {count} of {len(indices)} images (choose 1 to {len(indices)})')
    order = np.random.default_rng(0).permutation(np.asarray(indices))
    if targets is not None:
        rank = ranks(np.asarray(targets)[order])
        order = order[np.argsort(rank, kind='stable')]  # the first of every class, then the second of every class, ...
    return sorted(order[:count].tolist())


def ranks(classes: np.ndarray) -> np.ndarray:
    """Of every sample: how many of its class stand before it."""
    order = np.argsort(classes, kind='stable')
    ascending = classes[order]
    rank = np.empty(len(classes), dtype=np.int64)
    rank[order] = np.arange(len(classes)) - np.searchsorted(ascending, ascending)
    return rank
