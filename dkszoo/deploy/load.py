"""Loading an export."""

import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import timm
from safetensors import SafetensorError
from torch import nn

import dkszoo.models  # noqa: F401 - registers our names with timm
from dkszoo.weights import load_strictly, read_card_file


def read_card(path: str | os.PathLike) -> dict:
    """The JSON beside an export, once its checksum is found to fit the file.

    Raises:
        ValueError: A file is missing, damaged, or not the one the JSON describes.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'no file {str(path)!r} (an export is a .safetensors with its .json beside it)')
    card = read_card_file(path)
    for key in ('arch', 'model_args', 'data', 'sha256', 'card_sha256'):
        if key not in card:
            raise ValueError(f'{str(path.with_suffix(".json"))!r} lacks {key!r}: not written by dkszoo export')
    return card


def load(path: str | os.PathLike) -> tuple[nn.Module, Callable]:
    """An exported network, in eval mode, and the transform its images need.

    Args:
        path: The .safetensors file; its .json must lie beside it.

    Returns:
        The plain timm model, and a function from a PIL image to a tensor [C, H, W].

    Raises:
        ValueError: A file is missing, damaged, or does not fit the architecture it names.
    """
    card = read_card(path)
    data = card['data']
    try:
        model = timm.create_model(card['arch'], pretrained_cfg_overlay=data_overlay(card), **card['model_args'])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'cannot make {card["arch"]!r} with {card["model_args"]}: {error}') from error
    try:
        state = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f'{os.fspath(path)!r} is no safetensors file ({error})') from error
    load_strictly(model, state, os.fspath(path))
    size = tuple(data['input_size'])
    transform = timm.data.create_transform(size, is_training=False, **{k: data[k] for k in data if k != 'input_size'})
    return model.eval(), transform


def data_overlay(card: dict) -> dict:
    """What the export's JSON says of its data, as entries of timm's pretrained_cfg."""
    data = card['data']
    sizes = {'input_size': tuple(data['input_size']), 'mean': tuple(data['mean']), 'std': tuple(data['std'])}
    return {**data, **sizes, 'num_classes': card['model_args']['num_classes'], 'label_names': card.get('class_names')}
