"""Deep supervision: every branch learns from the labels.

Papers: Deeply-Supervised Nets (Lee et al., 2015); the term La of Deeply-supervised Knowledge Synergy (Sun et al., CVPR
2019), eq. 3 and 4.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ._common import check_logits, check_same_shape, promote


def deep_supervision_loss(
    branch_logits: Sequence[Tensor], target: Tensor, alpha: float | Sequence[float] | Tensor | None = None
) -> Tensor:
    """Cross-entropy of the branches, in nats: summed over the branches, averaged over the batch.

    sum_l alpha_l (1/B) sum_b -sum_k y_k log p_l,k, with p_l = softmax(z_l); the main head is not included.

    Args:
        branch_logits: one (B, K) tensor per branch, shallow to deep.
        target: class indices (B,), or probabilities (B, K), as from mixup or label smoothing.
        alpha: None (1, the papers' value), one weight for all branches, or one weight per branch.

    Returns:
        A scalar, float32 (float64 if the branches' logits are).

    Raises:
        ValueError: no branch, a target of neither shape, or a number of weights that differs from that of branches.
    """
    if len(branch_logits) == 0:
        raise ValueError('branch_logits: expected at least one branch, got none')
    weights = _branch_weights(alpha, len(branch_logits))
    losses = []
    for i, (weight, logits) in enumerate(zip(weights, branch_logits, strict=True)):
        check_logits(logits, f'branch_logits[{i}]')
        (logits,) = promote(logits)
        weight = weight.to(logits) if isinstance(weight, Tensor) else weight
        losses.append(weight * F.cross_entropy(logits, _fit_target(target, logits)))
    return sum(losses)


def _branch_weights(alpha, num_branches: int) -> Sequence[float] | Tensor:
    if alpha is None or (hasattr(alpha, '__float__') and getattr(alpha, 'ndim', 0) == 0):
        return [1.0 if alpha is None else alpha] * num_branches
    if len(alpha) != num_branches:
        raise ValueError(f'alpha: expected {num_branches} weights, one per branch, got {len(alpha)}')
    return alpha


def _fit_target(target: Tensor, logits: Tensor) -> Tensor:
    """Cast a target as cross-entropy needs it: int64 indices, or probabilities in the dtype of the logits."""
    if target.is_floating_point():
        check_same_shape(target, logits, 'target (probabilities)')
        return target.to(logits.dtype)
    if target.shape != logits.shape[:1]:
        raise ValueError(
            f'target: expected class indices of shape {tuple(logits.shape[:1])}, got {tuple(target.shape)}'
        )
    return target.long()
