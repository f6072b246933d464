"""dkszoo: image classifiers trained with training-only auxiliary branches.

Importing it registers its models with timm. The public names are those in `__all__`; see docs/.
"""

__version__ = '0.1.0'

from .branches import Cost, DeeplySupervised, DeepOutput, attach_branches, cost, list_designs, strip
from .deploy import export, load
from .engine import create_model, list_models
from .tasks import DeepSupervisionTask
from .weights import Converted, convert

__all__ = [
    'Converted',
    'Cost',
    'DeepOutput',
    'DeepSupervisionTask',
    'DeeplySupervised',
    'attach_branches',
    'convert',
    'cost',
    'create_model',
    'export',
    'list_designs',
    'list_models',
    'load',
    'strip',
]
