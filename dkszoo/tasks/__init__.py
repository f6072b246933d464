"""Methods, their terms and settings, and the training task."""

from .methods import METHODS, Method, get_method
from .settings import LossSettings
from .task import DeepSupervisionTask
from .teacher import Teacher, TeacherOutput
from .terms import TERMS, Batch, Context, Term

__all__ = [
    'METHODS',
    'TERMS',
    'Batch',
    'Context',
    'DeepSupervisionTask',
    'LossSettings',
    'Method',
    'Teacher',
    'TeacherOutput',
    'Term',
    'get_method',
]
