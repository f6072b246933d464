"""Loading an export."""

import os
from collections.abc import Callable

import timm
from torch import nn

from dkszoo.models._tags import card_cfg
from dkszoo.weights import check_fit, load_strictly, read_card, read_tensors


def load(path: str | os.PathLike) -> tuple[nn.Module, Callable]:
    """Load an exported network, in eval mode, and the transform for its images.

    Args:
        path: The .safetensors file; its .json must be beside it.

    Returns:
        The plain timm model, and a function from a PIL image to a tensor [C, H, W].

    Raises:
        ValueError: A file is missing, damaged, or does not fit the architecture it names.
    """
    card = read_card(path)
    data, state = card['data'], read_tensors(path)
    check_fit(card['arch'], card['model_args'], state, os.fspath(path))
    try:
        model = timm.create_model(card['arch'], pretrained_cfg_overlay=card_cfg(card), **card['model_args'])
        transform = timm.data.create_transform(**data, is_training=False)
    except Exception as error:  # whatever a foreign constructor raises
        raise ValueError(f'cannot make {card["arch"]!r} with {card["model_args"]} and {data}: {error}') from error
    load_strictly(model, state, os.fspath(path))
    return model.eval(), transform
