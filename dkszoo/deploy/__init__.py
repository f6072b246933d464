"""From a training checkpoint to a verified file, and back to a model."""

from .export import VerificationFailed, check_target, export, rebuild, verify
from .load import load, read_card

__all__ = ['VerificationFailed', 'check_target', 'export', 'load', 'read_card', 'rebuild', 'verify']
