"""Terms: one weighted loss each. A term reads the outputs of the network and returns a scalar."""

from .base import Batch, Context, Term
from .distillation import Distillation, Feature
from .heads import SelfDistillation, SelfFeature, Synergy
from .labels import CrossEntropy, DeepSupervision
from .stages import Attention, Hint, Variational

TERMS = {
    'ce': CrossEntropy,
    'ds': DeepSupervision,
    'synergy': Synergy,
    'kd': Distillation,
    'feature': Feature,
    'hint': Hint,
    'at': Attention,
    'vid': Variational,
    'self_kd': SelfDistillation,
    'self_feature': SelfFeature,
}

__all__ = ['TERMS', 'Batch', 'Context', 'Term']
