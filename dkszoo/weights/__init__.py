"""Weights on disk: reading them safely, in any known format, and writing them durably."""

from .card import read_card, read_card_file, write_card
from .convert import Converted, convert, identify, read_any
from .description import check_description, described
from .files import sha256, sync, write_durably, write_text
from .pretrained import pretrained_overlay, weighted_name
from .read import backbone_state, load_strictly, read_pickle, read_safetensors, read_tensors
from .texts import parse_json, parse_yaml

__all__ = [
    'Converted',
    'backbone_state',
    'check_description',
    'convert',
    'described',
    'identify',
    'load_strictly',
    'parse_json',
    'parse_yaml',
    'pretrained_overlay',
    'read_any',
    'read_card',
    'read_card_file',
    'read_pickle',
    'read_safetensors',
    'read_tensors',
    'sha256',
    'sync',
    'weighted_name',
    'write_card',
    'write_durably',
    'write_text',
]
