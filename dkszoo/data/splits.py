"""Splitting a data set into two parts, the same way every time."""

from collections.abc import Sequence

import numpy as np


def split_indices(total: int, targets: Sequence[int] | None, fraction: float) -> tuple[list[int], list[int]]:
    """Split the indices of a data set into a part to keep and a held-out part.

    The split depends on the arguments alone.

    Args:
        total: Number of samples.
        targets: Their classes, to stratify by; None: split at random.
        fraction: Share to hold out, 0 to below 1.

    Returns:
        Two ascending lists that together hold every index once: kept and held out.

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
        how = '' if targets is None else ', class by class,'
        raise ValueError(f'holding out {fraction} of {total} samples{how} leaves one part empty (choose another share)')
    mask = np.zeros(total, dtype=bool)
    mask[held] = True
    return np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()


def balanced_subset(indices: Sequence[int], targets: Sequence[int] | None, count: int) -> list[int]:
    """Choose `count` of the indices, with the classes as balanced as possible.

    The choice depends on the arguments alone, and a larger subset contains every smaller one.

    Args:
        indices: Indices to choose from.
        targets: The classes of all samples, by index; None: choose at random.
        count: Size of the subset.

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
        order = order[np.argsort(rank, kind='stable')]  # the first of each class, then the second of each, ...
    return sorted(order[:count].tolist())


def ranks(classes: np.ndarray) -> np.ndarray:
    """For each sample, the number of earlier samples of its class."""
    order = np.argsort(classes, kind='stable')
    ascending = classes[order]
    rank = np.empty(len(classes), dtype=np.int64)
    rank[order] = np.arange(len(classes)) - np.searchsorted(ascending, ascending)
    return rank
