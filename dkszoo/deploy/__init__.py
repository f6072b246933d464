"""Exports: from a checkpoint to a verified file, and back to a model."""

from .convert import convert_file, model_settings
from .export import VerificationFailed, export, rebuild, verify
from .formats import check_target
from .hub import check_folder, export_hub
from .load import load

__all__ = [
    'VerificationFailed',
    'check_folder',
    'check_target',
    'convert_file',
    'export',
    'export_hub',
    'load',
    'model_settings',
    'rebuild',
    'verify',
]
