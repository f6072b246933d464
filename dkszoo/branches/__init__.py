"""Training-only branches: designs, taps, and the module that owns backbone and branches."""

from .attach import attach_branches
from .designs import DESIGNS, BranchSpec
from .output import DeepOutput
from .supervised import Branch, DeeplySupervised, strip
from .taps import resolve_taps

__all__ = [
    'DESIGNS',
    'Branch',
    'BranchSpec',
    'DeepOutput',
    'DeeplySupervised',
    'attach_branches',
    'resolve_taps',
    'strip',
]
