"""Weights on disk: reading them safely, writing them durably."""

from .files import sha256, write_durably, write_text
from .read import backbone_state, load_strictly, read_pickle, read_safetensors

__all__ = [
    'backbone_state',
    'load_strictly',
    'read_pickle',
    'read_safetensors',
    'sha256',
    'write_durably',
    'write_text',
]
