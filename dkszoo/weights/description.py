"""A dkszoo file's description of its model, checked before anything is built from it: the file may be untrusted."""

import argparse
import difflib
import math
import os
import re
import reprlib
from collections.abc import Callable

import timm
from torch import nn

import dkszoo.models  # noqa: F401 - registers dkszoo's models with timm

# Arguments of `timm.create_model` by which a description could cause other files to be read or downloaded.
NOT_FROM_FILES = ('pretrained', 'checkpoint_path', 'cache_dir')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')
MOST_PIXELS = 1 << 24  # of an image, channels included: more than any network needs, yet small enough to allocate
LARGEST = 100_000  # integer allowed as a model argument: more classes or blocks would exhaust the memory


def is_size(value) -> bool:
    """(C, H, W)."""
    whole = isinstance(value, list | tuple) and len(value) == 3 and all(type(v) is int for v in value)
    return whole and min(value) >= 1 and math.prod(value) <= MOST_PIXELS


def is_number(value) -> bool:
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= LARGEST)


def is_numbers(value) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(is_number, value))


def is_names(value) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def is_evaluation(value) -> bool:
    size = value.get('batch_size', 1) if isinstance(value, dict) else None
    return type(size) is int and 1 <= size <= LARGEST


# Valid entries of a description; each may be missing or None unless its reader requires it.
ENTRIES: dict[str, Callable] = {
    'method': lambda value: isinstance(value, str),
    'design': lambda value: isinstance(value, str | dict),
    'taps': lambda value: isinstance(value, list | tuple),
    'class_names': is_names,
    'dataset': lambda value: isinstance(value, str),
    'evaluation': is_evaluation,
    'data': lambda value: isinstance(value, dict),
}
DATA: dict[str, Callable] = {
    'input_size': is_size,
    'mean': is_numbers,
    'std': lambda value: is_numbers(value) and min(value) > 0,
    'interpolation': INTERPOLATIONS.__contains__,
    'crop_pct': lambda value: is_number(value) and 0.01 <= value <= 10,
    'crop_mode': ('center', 'squash', 'border').__contains__,
}


def described(contents, source: str) -> dict | None:
    """The description in a dkszoo training checkpoint or in what `read_any` returns; None for foreign files.

    Raises:
        ValueError: The description is invalid.
    """
    own = contents.get('dkszoo') if isinstance(contents, dict) else None
    model = own.get('model') if isinstance(own, dict) else None
    if not isinstance(model, dict) or not {'arch', 'model_args'} <= model.keys():
        return None
    return check_description(model, source)


def timm_settings(contents: dict) -> dict:
    """The settings that timm's train.py stored in a checkpoint; empty if there are none."""
    args = contents.get('args')
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return args if isinstance(args, dict) else {}


def recorded_data(contents: dict, source: str) -> dict:
    """Image settings recorded by a checkpoint of dkszoo or of timm's train.py: those entries of `DATA` that it has.

    dkszoo's files also give 'label_names', the names of the classes. Other projects may store anything under timm's
    names (DeiT's input size is a single number): values of the wrong kind are ignored.

    Raises:
        ValueError: The description in a dkszoo file is invalid; `source` names the file in messages.
    """
    if own := described(contents, source):
        return {**(own.get('data') or {}), 'label_names': own.get('class_names')}
    said = timm_settings(contents)
    if said.get('input_size') is None:  # timm stores --img-size and --input-size separately
        in_chans, side = said.get('in_chans'), said.get('img_size')
        said = {**said, 'input_size': (3 if in_chans is None else in_chans, side, side)}
    return {key: said[key] for key, fits in DATA.items() if key in said and fits(said[key])}


def name_and_arguments(name: str, arguments: dict, model: nn.Module) -> tuple[str, dict]:
    """Architecture and arguments that describe a model made by this name with these arguments.

    A local-dir: or hf-hub: name brings arguments of its own; they are included, so that a file can do without it.
    """
    if ':' not in name:
        return name, arguments
    return model.pretrained_cfg['architecture'], {**model._model_args, **arguments}


def tag_of(model: dict) -> str | None:
    """The tag of weights, `method_dataset`; None for foreign weights, which have no method."""
    method = {'baseline': 'base'}.get(model.get('method'), model.get('method'))
    words = (method, (model.get('dataset') or '').removeprefix('torch/'))
    return '_'.join(re.sub(r'\W+', '_', word).strip('_') for word in words if word) if method else None


def check_description(model: dict, source: str) -> dict:
    """Return a description if it names an existing model, plain arguments, and data of the right kind.

    Args:
        model: 'arch', 'model_args', and any of `ENTRIES`.
        source: The file, for messages.

    Raises:
        ValueError: An entry is invalid (names it).
    """
    arch = model['arch']
    if not isinstance(arch, str) or ':' in arch or not timm.is_model(arch):
        raise ValueError(f'{source} names a model {reprlib.repr(arch)}, which neither timm nor dkszoo has')
    check_arguments(model['model_args'], source)
    check_values(model, f'{source} is damaged: its ', ENTRIES)
    if (data := model.get('data')) is not None:
        check_values(data, f'{source} is damaged: its ')
        check_data(data, source)
    return model


def check_model(name: str) -> None:
    """Raise a ValueError that names the nearest models unless timm or dkszoo has this one; the tag is ignored."""
    arch = timm.models.split_model_name_tag(name)[0]
    if not timm.is_model(arch):
        ours = [f'cifar_{arch}'] if timm.is_model(f'cifar_{arch}') else []  # other projects have no such prefix
        near = ours or difflib.get_close_matches(arch, timm.list_models(), 3)
        hint = f'did you mean {" or ".join(near)}?' if near else 'dkszoo models lists ours'
        if os.path.isfile(name):
            hint = "a file of weights is --initial-checkpoint FILE, a teacher's --kd-checkpoint FILE"
        raise ValueError(f'unknown model {name!r} ({hint})')


def fit_channels(values: tuple, in_chans: int) -> tuple[float, ...]:
    """Per-channel statistics for `in_chans` channels: their mean, repeated, if the number differs."""
    values = tuple(float(v) for v in values)
    return values if len(values) == in_chans else (sum(values) / len(values),) * in_chans


def check_values(values: dict, said: str, group: dict[str, Callable] = DATA) -> None:
    """Raise a ValueError that begins with `said` if an entry of `group` is invalid; it may be missing or None."""
    for key, fits in group.items():
        if (value := values.get(key)) is not None and not fits(value):
            raise ValueError(f'{said}{key} cannot be {reprlib.repr(value)}')


def check_data(data: dict, source: str) -> None:
    """Raise a ValueError unless input size, mean and std are present and agree in the number of channels."""
    for key in ('input_size', 'mean', 'std'):
        if data.get(key) is None:
            raise ValueError(f'{source} is damaged: it lacks the {key} of its images')
    if not len(data['mean']) == len(data['std']) == data['input_size'][0]:
        raise ValueError(f'{source} is damaged: mean, std and input_size have different numbers of channels')


def check_arguments(args, source: str) -> dict:
    """Return the model arguments given by a file if none of them would read a file or a URL.

    Raises:
        ValueError: They are no mapping from names, one would read other files, or a number is too large or not finite.
    """
    if not isinstance(args, dict) or not all(isinstance(key, str) for key in args):
        raise ValueError(f'{source} is damaged: its model arguments are not a mapping of names to values')
    for key in args:
        if key.startswith(NOT_FROM_FILES):
            raise ValueError(f'{source} has the model argument {key!r}, which would read other files (leave it out)')
    left = list(args.values())
    while left:
        value = left.pop()
        if isinstance(value, list | tuple | dict):
            left += value.values() if isinstance(value, dict) else value
        elif not is_number(value) and type(value) in (int, float):
            raise ValueError(f'{source} is damaged: its model arguments cannot have {reprlib.repr(value)}')
    return args
