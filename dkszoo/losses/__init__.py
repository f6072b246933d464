"""Losses as pure functions on tensors: no model, no state, torch only.

The losses average over the batch (`byot_feature_loss` is a norm over it) and return a scalar; `*_per_sample` return
[B]. All compute and return float32 (float64 stays), even under autocast; gradients have the dtype of their input.
"""

from .attention import attention_loss, match_size
from .byot import byot_feature_loss, byot_self_kd_loss
from .distillation import (
    feature_loss,
    feature_loss_per_sample,
    hint_loss,
    kd_loss,
    kd_loss_per_sample,
    loss_weights,
)
from .supervision import deep_supervision_loss
from .synergy import synergy_loss
from .vid import vid_loss

__all__ = [
    'attention_loss',
    'byot_feature_loss',
    'byot_self_kd_loss',
    'deep_supervision_loss',
    'feature_loss',
    'feature_loss_per_sample',
    'hint_loss',
    'kd_loss',
    'kd_loss_per_sample',
    'loss_weights',
    'match_size',
    'synergy_loss',
    'vid_loss',
]
