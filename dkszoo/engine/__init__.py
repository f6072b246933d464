"""Settings, training, evaluation and the run folder."""

from .config import TrainConfig
from .create import create_model, list_models
from .evaluate import eval_loader, evaluate
from .keeper import RunFailed
from .run import Run, execute, prepare, resolve
from .signals import Stopped, StopRequest

__all__ = [
    'Run',
    'RunFailed',
    'StopRequest',
    'Stopped',
    'TrainConfig',
    'create_model',
    'eval_loader',
    'evaluate',
    'execute',
    'list_models',
    'prepare',
    'resolve',
]
