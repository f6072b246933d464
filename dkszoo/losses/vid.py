"""Variational information distillation.

Paper: Variational Information Distillation for Knowledge Transfer (Ahn et al., CVPR 2019), with the Gaussian model of
one trained variance per channel.
"""

import torch.nn.functional as F
from torch import Tensor

from ._common import check_same_shape, promote


def vid_loss(mean: Tensor, target: Tensor, log_scale: Tensor, eps: float = 1e-5) -> Tensor:
    """Negative Gaussian log-likelihood of the teacher's map, in nats: averaged over the batch and all elements.

    1/2 mean((mean - sg target)^2 / v + log v), v_c = softplus(log_scale_c) + eps, with sg the stop gradient. The
    constant 1/2 log(2 pi) is left out, so the loss may be negative.

    Args:
        mean: (B, C, H, W) or (B, C), the teacher's map as predicted from the student's.
        target: the teacher's map, same shape; no gradient reaches it.
        log_scale: (C,), trained; the variance per channel before the softplus.
        eps: smallest variance, above 0.

    Returns:
        A scalar, float32 (float64 if an input is float64).

    Raises:
        ValueError: shapes that differ, a log_scale that is not (C,), or eps not above 0.
    """
    if not eps > 0:
        raise ValueError(f'eps: expected a smallest variance above 0, got {eps}')
    check_same_shape(mean, target, 'mean and target')
    if mean.ndim < 2 or log_scale.shape != mean.shape[1:2]:
        raise ValueError(
            f'log_scale: expected one value per channel of maps {tuple(mean.shape)}, got {tuple(log_scale.shape)}'
        )
    mean, target, log_scale = promote(mean, target.detach(), log_scale)
    variance = (F.softplus(log_scale) + eps).view(-1, *[1] * (mean.ndim - 2))
    return 0.5 * ((mean - target).square() / variance + variance.log()).mean()
