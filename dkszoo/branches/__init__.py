"""Training-only branches: designs, taps, and the module that owns backbone and branches."""

from .attach import attach_branches, empty_model, list_designs
from .branch import classifiers
from .costs import Cost, cost
from .designs import DESIGNS
from .output import DeepOutput
from .supervised import DeeplySupervised, strip
from .taps import default_taps

__all__ = [
    'DESIGNS',
    'Cost',
    'DeepOutput',
    'DeeplySupervised',
    'attach_branches',
    'classifiers',
    'cost',
    'default_taps',
    'empty_model',
    'list_designs',
    'strip',
]
