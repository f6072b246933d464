"""Loading an export."""

import os
from collections.abc import Callable

import timm
from torch import nn

from dkszoo.models._tags import card_cfg
from dkszoo.weights import load_strictly, read_card, read_tensors


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
        model = timm.create_model(card['arch'], pretrained_cfg_overlay=card_cfg(card), **card['model_args'])
        size = tuple(data['input_size'])
        transform = timm.data.create_transform(
            size, is_training=False, **{k: data[k] for k in data if k != 'input_size'}
        )
    except (RuntimeError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise ValueError(f'cannot make {card["arch"]!r} with {card["model_args"]} and {data}: {error}') from error
    load_strictly(model, read_tensors(path), os.fspath(path))
    return model.eval(), transform
