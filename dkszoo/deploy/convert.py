"""Other people's checkpoints as exports."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import timm
from torch import nn

import dkszoo
from dkszoo.branches import DeeplySupervised
from dkszoo.weights import (
    AVERAGED,
    check_arguments,
    check_values,
    described,
    fit_channels,
    identify,
    load_strictly,
    name_and_arguments,
    read_any,
    recorded_data,
    sha256,
    tag_of,
)

from .export import write_network
from .formats import check_target

_logger = logging.getLogger(__name__)


def convert_file(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    model: str | None = None,
    model_kwargs: dict | None = None,
    ema: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    img_size: int | None = None,
    crop_pct: float | None = None,
) -> dict:
    """Write the network of a checkpoint of any known format to a file, and what it is to a JSON beside it.

    Branches are left behind. How images are to be prepared is what the file says of it, or else the model's own
    setting; a peer's files seldom say.

    Args:
        checkpoint: The file to read, see `convert`.
        out: The file to write, as for `export`; it appears only once it is verified.
        model: The name it has to fit; default: as in `convert`.
        model_kwargs: Arguments the model is to be made with, beyond those the file tells.
        ema: Take the averaged weights where there are any.
        mean: Channel means of the images it was trained on, in [0, 1], where they are not the model's own.
        std: Their standard deviations.
        img_size: Side of the images to evaluate at, in pixels, where it is not the model's own.
        crop_pct: Share of the image that the crop keeps, where it is not the model's own.

    Returns:
        The contents of that JSON.

    Raises:
        ValueError: The checkpoint cannot be read or fits no model, `out` cannot be written, mean or std is not of the
            network's channels, or the size or crop is none.
        VerificationFailed: The file written does not give the network's logits.
    """
    out, source = check_target(out), f'checkpoint {os.fspath(checkpoint)!r}'
    contents = read_any(checkpoint)
    averaged = any(isinstance(contents.get(key), dict) and contents[key] for key in AVERAGED)
    if averaged and ema:
        _logger.info('%s: its averaged weights (--no-ema: the others)', source)
    elif averaged:
        contents = {key: contents[key] for key in contents if key not in (*AVERAGED, 'task_state_ema')}
    elif not ema:
        _logger.warning('%s: --no-ema chooses nothing, it has one set of weights', source)
    converted = identify(contents, source, model, check_arguments(model_kwargs or {}, '--model-kwargs'))
    known = described(contents, source) or {}
    net = timm.create_model(converted.model, **converted.model_kwargs)
    load_strictly(net, converted.backbone, source)
    arch, arguments = name_and_arguments(converted.model, converted.model_kwargs, net)
    recorded = recorded_data(contents, source)
    recorded = {key: value for key, value in recorded.items() if key != 'label_names' and value}
    data = known.get('data') or model_settings(net, converted.model_kwargs.get('in_chans')) | recorded
    data = normalised_with(data, mean, std)
    if img_size is not None:
        data['input_size'] = [data['input_size'][0], img_size, img_size]
    if crop_pct is not None:
        data['crop_pct'] = crop_pct
    check_values(data, '')
    if not recorded.keys() >= {'mean', 'std'} and None in (mean, std, img_size, crop_pct):
        said = 'mean {mean}, std {std}, size {input_size}, crop {crop_pct}'.format_map(data)
        _logger.info('%s: it does not say how images are prepared; taken: %s (see dkszoo convert --help)', source, said)
    card = {
        'arch': arch,
        'model_args': arguments,
        'ema': known.get('ema', averaged and ema),
        'design': known.get('design', converted.design),
        'method': known.get('method'),
        'tag': known.get('tag', tag_of(known)),
        'class_names': known.get('class_names'),
        'dataset': known.get('dataset'),
        'data': data,
        'source': {'file': Path(checkpoint).name, 'sha256': sha256(checkpoint)},
        'dkszoo_version': dkszoo.__version__,
    }
    return write_network(out, DeeplySupervised(net), card)


def normalised_with(data: dict, mean: Sequence[float] | None, std: Sequence[float] | None) -> dict:
    """The settings of images with another mean and standard deviation, where they are given.

    Raises:
        ValueError: They are not of the channels the settings have.
    """
    in_chans, data = data['input_size'][0], dict(data)
    for key, value in (('mean', mean), ('std', std)):
        if value is not None:
            data[key] = list(value) * (in_chans if len(value) == 1 else 1)
        if len(data[key]) != in_chans:
            raise ValueError(f'the network takes {in_chans} channels (give --{key} one number, or one a channel)')
    return data


def model_settings(net: nn.Module, in_chans: int | None) -> dict:
    """How a model's own configuration prepares images, for the channels the network takes where they are others."""
    data = timm.data.resolve_data_config({}, model=net, use_test_size=True)
    in_chans = in_chans or data['input_size'][0]
    for key in ('mean', 'std'):
        data[key] = fit_channels(data[key], in_chans)
    return {**data, 'input_size': (in_chans, *data['input_size'][1:])}
