"""Methods, their terms and settings, and the training task."""

from .methods import METHODS, Method, get_method
from .settings import LossSettings
from .task import DeepSupervisionTask
from .terms import TERMS, Batch, Term

__all__ = ['METHODS', 'TERMS', 'Batch', 'DeepSupervisionTask', 'LossSettings', 'Method', 'Term', 'get_method']
