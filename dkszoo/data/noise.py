"""Label noise: wrong labels on purpose."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Flip(NamedTuple):
    """A replaced label: the sample's index in the data set, its true class, and the new one."""

    index: int
    old: int
    new: int


def corrupt_labels(
    targets: Sequence[int], share: float, num_classes: int, seed: int = 0, indices: Sequence[int] | None = None
) -> tuple[list[int], list[Flip]]:
    """Replace a share of the labels with wrong ones (DKS, section 4.3, "DKS on Noisy Data").

    Exactly round(share * N) samples, drawn without replacement, get another class, each of the others equally likely.
    Shares are nested for the same seed: labels replaced at a smaller share are replaced at a larger one, by the same
    class.

    Args:
        targets: The classes of N samples.
        share: 0 to 1.
        num_classes: Number of classes.
        seed: Together with the targets, it determines the result.
        indices: The samples' indices in the data set; default 0 to N-1.

    Returns:
        The labels to train on, and the replaced ones in ascending order of index.

    Raises:
        ValueError: A share outside [0, 1], or fewer than two classes.
    """
    if not 0 <= share <= 1:
        raise ValueError(f'the share of wrong labels must be from 0 to 1, got {share}')
    if share and num_classes < 2:
        raise ValueError(f'wrong labels need at least two classes, got {num_classes}')
    labels = [int(t) for t in targets]
    indices = range(len(labels)) if indices is None else indices
    if not share:
        return labels, []
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    wrong = ((np.asarray(labels) + rng.integers(1, num_classes, size=len(labels))) % num_classes).tolist()
    flips = []
    for i in order[: round(share * len(labels))].tolist():
        flips.append(Flip(int(indices[i]), labels[i], wrong[i]))
        labels[i] = wrong[i]
    return labels, sorted(flips)
