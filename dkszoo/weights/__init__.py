"""Weights on disk: reading them safely, in any known format, and writing them durably."""

from .convert import Converted, convert, identify, read_any
from .files import sha256, write_durably, write_text
from .read import backbone_state, load_strictly, read_pickle, read_safetensors

__all__ = [
    'Converted',
    'backbone_state',
    'convert',
    'identify',
    'load_strictly',
    'read_any',
    'read_pickle',
    'read_safetensors',
    'sha256',
    'write_durably',
    'write_text',
]
