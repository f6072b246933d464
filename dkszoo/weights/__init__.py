"""Weights on disk: reading them safely, in any known format, and writing them durably."""

from .card import card_path, is_card, read_card, write_card
from .description import (
    LARGEST,
    check_arguments,
    check_model,
    check_values,
    described,
    fit_channels,
    name_and_arguments,
    recorded_data,
    tag_of,
)
from .durable import sha256, sync, temporary_beside, write_durably, write_text
from .formats import AVERAGED
from .identify import Converted, check_fit, convert, identify, own_names, read_any
from .pretrained import check_source, pretrained_overlay, weighted_name
from .read import backbone_state, load_strictly, read_pickle, read_tensors
from .texts import dump_yaml, first_line, parse_json, parse_yaml

__all__ = [
    'AVERAGED',
    'LARGEST',
    'Converted',
    'backbone_state',
    'card_path',
    'check_arguments',
    'check_fit',
    'check_model',
    'check_source',
    'check_values',
    'convert',
    'described',
    'dump_yaml',
    'first_line',
    'fit_channels',
    'identify',
    'is_card',
    'load_strictly',
    'name_and_arguments',
    'own_names',
    'parse_json',
    'parse_yaml',
    'pretrained_overlay',
    'read_any',
    'read_card',
    'read_pickle',
    'read_tensors',
    'recorded_data',
    'sha256',
    'sync',
    'tag_of',
    'temporary_beside',
    'weighted_name',
    'write_card',
    'write_durably',
    'write_text',
]
