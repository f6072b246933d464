"""dkszoo: image classifiers trained with training-only auxiliary branches.

Importing it registers its models with timm. The public names are those of `__all__`; see docs/.
"""

__version__ = '0.1.0'

from .branches import DeeplySupervised, DeepOutput, attach_branches, strip
from .deploy import export, load
from .engine import create_model, list_models
from .tasks import DeepSupervisionTask

__all__ = [
    'DeepOutput',
    'DeepSupervisionTask',
    'DeeplySupervised',
    'attach_branches',
    'create_model',
    'export',
    'list_models',
    'load',
    'strip',
]
