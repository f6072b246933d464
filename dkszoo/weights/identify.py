"""Reading checkpoints of other projects: the model that a file fits, and its weights under dkszoo's keys."""

import functools
import logging
import os
import re
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import timm
import torch

import dkszoo.models

from .description import check_model
from .networks import Network, State, find_networks
from .read import check_shapes, read_pickle, read_safetensors

_logger = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]


class Converted(NamedTuple):
    """A checkpoint as dkszoo's models read it.

    Attributes:
        model: The name of the model it fits.
        model_kwargs: Arguments of its constructor.
        design: The design its branches follow; None without branches.
        backbone: State dict of the network.
        branches: State dict of `DeeplySupervised.branches`; empty without branches.
    """

    model: str
    model_kwargs: dict
    design: str | dict | None
    backbone: State
    branches: State


def convert(checkpoint: str | os.PathLike | dict, model: str | None = None, **model_kwargs) -> Converted:
    """Read a checkpoint of any known format and identify its model.

    Known formats are the official DKS code (WRN with or without its ep1 and ep2 branches, ImageNet), DHM (branches
    too), RepDistiller and SemCKD, mdistiller, HSAKD, pytorch-cifar, torchvision, timm, and dkszoo (training
    checkpoints, exports, the state dict of a `DeeplySupervised`, which does not describe its branches: they are left
    out). The format is recognised by the keys and logged; classes, channels, depth and width follow from the shapes. If
    there are averaged weights, they are used.

    The same keys and shapes can belong to several names: those of an ImageNet ResNet give `dks_resnetNN`. mdistiller's
    files hold student and teacher: the student is used, unless only the teacher fits `model`.

    Args:
        checkpoint: A file, or what `torch.load` returns for it.
        model: A dkszoo or timm name that the file must fit; default: the one the file names, else the dkszoo model it
            fits.
        **model_kwargs: Arguments of the model, beyond those that follow from the file.

    Returns:
        `backbone` loads strictly into `net.backbone`, and `branches` into `net.branches`, of
        `create_model(model, branches=design, **model_kwargs)` (with the taps of the training, if they were not the
        default; branches built unlike those of the public code match no design and do not load). Without branches
        `design` is None and `backbone` loads into `create_model(model, **model_kwargs)`.
        A missing num_batches_tracked is 0. Tensors are on the CPU and share memory with a dict given.

    Raises:
        ValueError: The file cannot be read, holds no network, or fits no model (names the nearest and what differs).
    """
    if isinstance(checkpoint, dict):
        return identify(checkpoint, 'checkpoint', model, model_kwargs)
    return identify(read_any(checkpoint), f'checkpoint {os.fspath(checkpoint)!r}', model, model_kwargs)


def identify(contents: dict, source: str, model: str | None = None, model_kwargs: dict | None = None) -> Converted:
    """`convert` for the contents of a file; `source` names the file in messages."""
    model_kwargs = model_kwargs or {}
    try:
        networks = find_networks(contents)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    if model_kwargs and not (model or networks[0].arch):
        raise ValueError(f'{source} does not name its model, needed for the arguments {model_kwargs} (name it)')
    for network in networks if model else networks[:1]:
        asked = {**network.model_kwargs, **model_kwargs}
        for name in candidates(model, network):
            kwargs = arguments(name, network.backbone, asked)
            if shapes(network.backbone) == expected(name, kwargs):
                settings = ', '.join(f'{key}={value!r}' for key, value in kwargs.items())
                design = f', branches {network.design}' if network.design else ''
                _logger.info('%s: %s, read as %s(%s)%s', source, network.origin, name, settings, design)
                return Converted(name, kwargs, network.design, network.backbone, network.branches)
    raise ValueError(f'{source} {refusal(networks[0], model, model_kwargs)}')


def read_any(path: str | os.PathLike) -> dict:
    """The contents of a checkpoint; an export is returned in the form of a training checkpoint.

    Raises:
        ValueError: It cannot be read, or does not hold a dict.
    """
    if Path(path).suffix == '.safetensors':
        state, card = read_safetensors(path)
        return {'state_dict': state, 'dkszoo': {'model': card}} if {'arch', 'model_args'} <= card.keys() else state
    contents = read_pickle(path, legacy=True)
    if not isinstance(contents, dict):
        raise ValueError(f'checkpoint {os.fspath(path)!r} holds a {type(contents).__name__}, not a state dict')
    return contents


def candidates(model: str | None, network: Network) -> Sequence[str]:
    """The model names to try.

    Raises:
        ValueError: The requested model does not exist.
    """
    if not model:
        return (network.arch,) if timm.is_model(network.arch) else own_names()
    if ':' not in model:
        check_model(model)
    return (model,)


def own_names() -> list[str]:
    """dkszoo's models, the ImageNet ones first: they are the most common, and ResNet-1202 is the slowest to try."""
    return [name for family in reversed(dkszoo.models.__all__) for name in timm.list_models(module=family)]


def arguments(name: str, state: State, asked: dict) -> dict:
    """Constructor arguments: those asked for, plus those that follow from a state dict."""
    cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    kwargs = {}
    for role, argument, axis in (('classifier', 'num_classes', 0), ('first_conv', 'in_chans', 1)):
        layer = getattr(cfg, role, None)
        layer = next(iter(layer), None) if isinstance(layer, tuple | list) else layer
        weight = state.get(f'{layer}.weight')
        if weight is not None and weight.ndim > axis and (role == 'classifier' or reads_images(name, layer, weight)):
            kwargs[argument] = weight.shape[axis]
        elif role == 'classifier' and layer and not any(key.startswith(f'{layer}.') for key in state):
            kwargs[argument] = 0  # no classifier
    if name.startswith('cifar_resnet') and not any('.downsample.' in key for key in state):
        kwargs['shortcut'] = 'pad'  # without parameters, so it shows only by missing keys
    return {**kwargs, **asked}


def reads_images(name: str, layer: str, weight: torch.Tensor) -> bool:
    """Whether a model's first layer sees the image channels: TResNet's sees those of 4x4 pixels, others are linear."""
    if weight.ndim != 4 or weight.shape[1] <= 4:
        return weight.ndim == 4
    return expected(name, {}).get(f'{layer}.weight', (0, 0))[1] <= 4


def expected(name: str, kwargs: dict) -> Shapes:
    """Keys and shapes of a model, built on the meta device.

    They are kept for the usual arguments only: many names are tried with these, while others may not be hashable.

    Raises:
        ValueError: The model does not take these arguments.
    """
    usual = kwargs.keys() <= {'num_classes', 'in_chans', 'shortcut'} and all(
        isinstance(value, int | str) for value in kwargs.values()
    )
    return (model_shapes if usual else model_shapes.__wrapped__)(name, tuple(kwargs.items()))


def check_fit(name: str, kwargs: dict, state: State, source: str) -> None:
    """Compare weights with a model before it is built: a description may name one too large for the memory.

    Raises:
        ValueError: The model does not take these arguments, or the weights do not fit it.
    """
    check_shapes(expected(name, kwargs), state, source)


@functools.cache
def model_shapes(name: str, kwargs: tuple) -> Shapes:
    try:
        with torch.device('meta'):
            return shapes(timm.create_model(name, **dict(kwargs)).state_dict())
    except Exception as error:  # whatever a foreign constructor raises
        raise ValueError(f'cannot make model {name!r} with {dict(kwargs)}: {error or type(error).__name__}') from error


def shapes(state: State) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def refusal(network: Network, model: str | None, model_kwargs: dict) -> str:
    """Message for a file that fits no model: the nearest models and the first keys in which they differ."""
    state, name, asked = shapes(network.backbone), model or network.arch, {**network.model_kwargs, **model_kwargs}
    if name:
        own = arguments(name, network.backbone, network.model_kwargs)
        if state == expected(name, own):
            said = ', '.join(f'{key}={value}' for key, value in own.items() if asked.get(key, value) != value)
            said = f'with {said}' if said else f'without {", ".join(key for key in asked if key not in own)}'
            return f'holds a {name} {said} (ask for that, or leave it out)'
    if name and network.arch and network.arch != timm.models.split_model_name_tag(name)[0]:
        return f'holds a {network.arch}, not a {name}: {differences(name, asked, network)} (ask for that model)'
    ranks = {}
    for near in own_names():
        wanted = expected(near, arguments(near, network.backbone, {}))
        alike = overlap(wanted.items(), state.items())  # depths of a family differ in entries, not in kinds
        ranks[near] = (-overlap(kinds(wanted), kinds(state)), -alike, abs(len(wanted) - len(state)))
    nearest = sorted(ranks, key=ranks.get)[:3]
    size = 'another depth or width is a model argument, such as depth=22'
    if name:
        said = ', '.join(near for near in nearest if near != name)
        return f'does not fit {name}: {differences(name, asked, network)} (nearest to it: {said}; {size})'
    listed = '; '.join(f'{name}: {differences(name, {}, network)}' for name in nearest)
    return (
        f'({network.origin}) fits no model of dkszoo, nearest are {listed} '
        f"(name the model, if it is one of timm's or of another size; {size})"
    )


def kinds(keys: Iterable[str]) -> set[str]:
    """Keys with every number replaced by 0."""
    return {re.sub(r'\d+', '0', key) for key in keys}


def overlap(one: Set, other: Set) -> float:
    """Intersection over union."""
    return len(one & other) / len(one | other)


def differences(name: str, asked: dict, network: Network) -> str:
    """The first entries in which a file and a model differ, under the file's own keys where it has them."""
    wanted, state = expected(name, arguments(name, network.backbone, asked)), shapes(network.backbone)

    def theirs(key: str) -> str:
        return repr(network.theirs.get(key, key))

    lacks = [repr(key) for key in wanted if key not in state]
    other = [
        f'{theirs(key)} has shape {list(state[key])}, expected {list(shape)}'
        for key, shape in wanted.items()
        if state.get(key, shape) != shape
    ]
    besides = [theirs(key) for key in state if key not in wanted]
    groups = (('it lacks ', lacks), ('', other), ('it also has ', besides))
    return ', '.join(
        said + ', '.join(keys[:2]) + (f' and {len(keys) - 2} more' if len(keys) > 2 else '')
        for said, keys in groups
        if keys
    )
