"""Weights on disk: reading them safely, writing them durably."""

from .files import sha256, write_durably, write_text
from .read import backbone_state, load_strictly, read_pickle

__all__ = ['backbone_state', 'load_strictly', 'read_pickle', 'sha256', 'write_durably', 'write_text']
