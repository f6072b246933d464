"""Attention transfer: a student's spatial attention maps follow the teacher's.

Paper: Paying More Attention to Attention (Zagoruyko and Komodakis, ICLR 2017), eq. 2, activation-based.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ._common import promote


def attention_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], p: float = 2) -> Tensor:
    """Mean squared difference of normalised attention maps, summed over the pairs of maps.

    With a(F) = the mean over the channels of |F|^p, flattened over the positions and divided by its L2 norm (of at
    least 1e-12)::

        sum_pairs 1/(B H W) sum_b sum_hw (a(F_S) - sg a(F_T))^2

    where sg is the stop gradient. The paper takes the L2 norm of the difference, without a mean; this is the form of
    the public implementations, and their weight of 1000 belongs to it. They omit the absolute value, which is
    equivalent only for even p or maps without negative values.

    Args:
        student_maps: (B, C, H, W) each.
        teacher_maps: as many maps of the same batch. Channels may differ; if sizes differ, the larger map is
            average-pooled to the smaller size before the power is taken. No gradient reaches them.
        p: exponent, at least 1.

    Returns:
        A scalar, float32 (float64 if a map is float64).

    Raises:
        ValueError: no maps, different numbers of maps, maps that are not 4-D or differ in batch size, or p below 1.
    """
    if not p >= 1:
        raise ValueError(f'p: expected an exponent of at least 1, got {p}')
    if len(student_maps) == 0 or len(student_maps) != len(teacher_maps):
        raise ValueError(
            f'expected pairs of maps, got {len(student_maps)} of the student, {len(teacher_maps)} of the teacher'
        )
    losses = []
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        student, teacher = match_size(*promote(student, teacher.detach()))
        losses.append(F.mse_loss(_attention(student, p), _attention(teacher, p)))
    return sum(losses)


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the size of the smaller, per dimension; equal sizes are left as they are.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H', W').

    Returns:
        Both maps at (min(H, H'), min(W, W')).

    Raises:
        ValueError: a map is not 4-D, or the batch sizes differ.
    """
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError(
            f'expected maps (B, C, H, W) of one batch, got {tuple(student.shape)} and {tuple(teacher.shape)}'
        )
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    student, teacher = (
        maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher)
    )
    return student, teacher


def _attention(maps: Tensor, p: float) -> Tensor:
    """Normalised attention (B, H * W) of a map (B, C, H, W)."""
    return F.normalize(maps.abs().pow(p).mean(1).flatten(1), dim=1, eps=1e-12)
