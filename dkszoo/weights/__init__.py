"""Weights on disk: reading them safely, in any known format, and writing them durably."""

from .card import read_card, read_card_file, write_card
from .convert import Converted, convert, identify, read_any
from .files import sha256, write_durably, write_text
from .pretrained import pretrained_overlay, weighted_name
from .read import backbone_state, load_strictly, read_pickle, read_safetensors

__all__ = [
    'Converted',
    'backbone_state',
    'convert',
    'identify',
    'load_strictly',
    'pretrained_overlay',
    'read_any',
    'read_card',
    'read_card_file',
    'read_pickle',
    'read_safetensors',
    'sha256',
    'weighted_name',
    'write_card',
    'write_durably',
    'write_text',
]
