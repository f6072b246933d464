"""Self-distillation: the branches learn from the main head's predictions and features.

Paper: Be Your Own Teacher (Zhang et al., ICCV 2019), loss sources 2 and 3, in the form of its authors' code and of the
journal version: a soft cross-entropy without tau^2 instead of the paper's KL divergence, and a norm instead of its
square.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_logits, check_same_shape, check_tau, promote


def byot_self_kd_loss(branch_logits: Sequence[Tensor], main_logits: Tensor, tau: float = 3.0) -> Tensor:
    """Soft cross-entropy of the branches against the main head, in nats: summed over branches, averaged over the batch.

    sum_l (1/B) sum_b H(sg softmax(z_L / tau), softmax(z_l / tau)), with sg the stop gradient; no tau^2. For equal
    predictions this is their entropy, not 0.

    Args:
        branch_logits: one (B, K) tensor per branch.
        main_logits: (B, K); no gradient reaches them.
        tau: temperature, above 0.

    Returns:
        A scalar, float32 (float64 if an input is float64).

    Raises:
        ValueError: no branch, shapes that differ or are not (B, K), or tau not above 0.
    """
    check_tau(tau)
    check_logits(main_logits, 'main_logits')
    if len(branch_logits) == 0:
        raise ValueError('branch_logits: expected at least one branch, got none')
    for i, logits in enumerate(branch_logits):
        check_same_shape(logits, main_logits, f'branch_logits[{i}]')
    main, *branches = promote(main_logits.detach(), *branch_logits)
    target = F.softmax(main / tau, dim=-1)
    return sum(F.cross_entropy(logits / tau, target) for logits in branches)


def byot_feature_loss(branch_features: Sequence[Tensor], main_feature: Tensor) -> Tensor:
    """Distance of the branches' features to the main head's: one Frobenius norm per branch, summed.

    sum_l ||f_l - sg f_L||, with sg the stop gradient and the norm over the whole (B, d) matrix: neither squared nor
    averaged, so it grows with the square root of the batch (the weight 0.03 was chosen at B = 128). Equal features
    have gradient 0. The authors' code leaves out the deepest branch; so should the caller.

    Args:
        branch_features: one (B, d) tensor per branch, already projected to the main head's width.
        main_feature: (B, d); no gradient reaches it.

    Returns:
        A scalar, float32 (float64 if an input is float64).

    Raises:
        ValueError: no branch, or shapes that differ.
    """
    if len(branch_features) == 0:
        raise ValueError('branch_features: expected at least one branch, got none')
    for i, feature in enumerate(branch_features):
        check_same_shape(feature, main_feature, f'branch_features[{i}]')
    main, *branches = promote(main_feature.detach(), *branch_features)
    return sum(torch.linalg.vector_norm(feature - main) for feature in branches)
