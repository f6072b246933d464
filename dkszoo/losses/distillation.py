"""Distillation from a teacher's predictions and maps, and DSKD's weights of the branches.

Papers: Distilling the Knowledge in a Neural Network (Hinton et al., 2015); FitNets (Romero et al., ICLR 2015);
Deeply-Supervised Knowledge Distillation (Luo et al., DSKD), eq. 1 to 8.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_logits, check_same_shape, check_tau, promote


def kd_loss(student: Tensor, teacher: Tensor, tau: float = 4.0, scale_tau2: bool = True) -> Tensor:
    """Hinton's distillation, in nats: the mean of `kd_loss_per_sample` over the batch.

    tau^2 (1/B) sum_b KL(sg softmax(z_T / tau) || softmax(z_S / tau)), with sg the stop gradient. DSKD's eq. 1 has no
    tau^2; the public implementations of KD have it.

    Args:
        student: logits (B, K).
        teacher: logits (B, K); no gradient reaches them.
        tau: temperature, above 0.
        scale_tau2: multiply by tau^2, which keeps the gradient's size independent of tau.

    Returns:
        A scalar, float32 (float64 if an input is float64).

    Raises:
        ValueError: shapes that differ or are not (B, K), or tau not above 0.
    """
    return kd_loss_per_sample(student, teacher, tau, scale_tau2).mean()


def kd_loss_per_sample(student: Tensor, teacher: Tensor, tau: float = 4.0, scale_tau2: bool = True) -> Tensor:
    """`kd_loss` of each sample (B,), with the same arguments and errors; for weights per sample (DSKD eq. 2)."""
    check_tau(tau)
    check_logits(student, 'student')
    check_same_shape(student, teacher, 'student and teacher logits')
    student, teacher = promote(student, teacher.detach())
    log_p_student = F.log_softmax(student / tau, dim=-1)
    log_p_teacher = F.log_softmax(teacher / tau, dim=-1)
    loss = kl_terms(log_p_teacher, log_p_student).sum(-1)
    return loss * tau**2 if scale_tau2 else loss


def kl_terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p log(p / q) - p + q of each class; they sum to KL(p, q), since p and q both sum to 1.

    Unlike p log(p / q), none is negative, so nothing cancels in the sum: the KL of close distributions stays precise.
    """
    p, log_ratio = log_p.exp(), log_p - log_q
    near = log_ratio.abs() < 1
    small = torch.where(near, log_ratio, 0)
    return torch.where(near, p * (small + torch.expm1(-small)), p * log_ratio + (log_q.exp() - p))


def loss_weights(per_sample_losses: Tensor | Sequence[Tensor]) -> Tensor:
    """DSKD's weights of the branches, per sample: W_l = loss_l / sum_j loss_j (eq. 7 and 8).

    No gradient passes through the weights (the paper leaves it open). Rounding noise below 0 counts as 0.

    Args:
        per_sample_losses: (L-1, B), the losses of the L-1 branches, >= 0, or a sequence of L-1 tensors (B,).

    Returns:
        (L-1, B), float32 (float64 for float64 losses): from 0 to 1; each column sums to 1, and is all 1/(L-1) if
        its losses are all 0.

    Raises:
        ValueError: no branch, or losses that are not (L-1, B).
    """
    if not isinstance(per_sample_losses, Tensor):
        if len(per_sample_losses) == 0:
            raise ValueError('per_sample_losses: expected at least one branch, got none')
        per_sample_losses = torch.stack(promote(*per_sample_losses))
    if per_sample_losses.ndim != 2 or len(per_sample_losses) == 0:
        raise ValueError(f'per_sample_losses: expected shape (L-1, B), got {tuple(per_sample_losses.shape)}')
    (losses,) = promote(per_sample_losses.detach())
    losses = losses.clamp_min(0)
    largest = losses.amax(0)
    # Relative to the largest loss, the sum can neither overflow nor be 0.
    relative = torch.where(largest > 0, losses / largest, torch.ones_like(losses))
    return relative / relative.sum(0)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps, over the batch and all positions and channels (DSKD eq. 4).

    MSE(sg F_T, r(F_S)), with sg the stop gradient; the caller applies r, which maps the student's map to the
    teacher's shape.

    Args:
        student: (B, ...), usually (B, C, H, W).
        teacher: the same shape; no gradient reaches it.

    Returns:
        A scalar, float32 (float64 if an input is float64).

    Raises:
        ValueError: shapes that differ.
    """
    check_same_shape(student, teacher, 'student and teacher maps')
    student, teacher = promote(student, teacher.detach())
    return F.mse_loss(student, teacher)


def feature_loss_per_sample(student: Tensor, teacher: Tensor) -> Tensor:
    """`feature_loss` of each sample (B,), with the same arguments and errors; for weights per sample (DSKD eq. 5)."""
    check_same_shape(student, teacher, 'student and teacher maps')
    student, teacher = promote(student, teacher.detach())
    return (student - teacher).square().flatten(1).mean(1)


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNets' hint: mean squared difference of the regressed student map and the teacher's map.

    As in the public implementations, this is `feature_loss`, with the same arguments and errors; the FitNets paper
    (eq. 3) has half the squared norm instead of the mean.
    """
    return feature_loss(student, teacher)
