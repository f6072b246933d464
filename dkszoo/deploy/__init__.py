"""From a checkpoint to a verified file, and back to a model."""

from .convert import convert_file
from .export import VerificationFailed, check_target, export, rebuild, verify
from .load import load, read_card

__all__ = ['VerificationFailed', 'check_target', 'convert_file', 'export', 'load', 'read_card', 'rebuild', 'verify']
