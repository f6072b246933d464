"""Settings, training, evaluation and the run folder."""

from .calibration import CalibrationError
from .config import FREE, TrainConfig
from .create import create_model, list_models
from .evaluate import check_images, eval_loader, evaluate
from .keeper import RunFailed
from .record import differences
from .run import Run, execute, prepare, resolve
from .signals import Stopped, StopRequest

__all__ = [
    'FREE',
    'CalibrationError',
    'Run',
    'RunFailed',
    'StopRequest',
    'Stopped',
    'TrainConfig',
    'check_images',
    'create_model',
    'differences',
    'eval_loader',
    'evaluate',
    'execute',
    'list_models',
    'prepare',
    'resolve',
]
