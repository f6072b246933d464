"""Checkpoints of other projects as exports."""

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
    class_names: Sequence[str] | None = None,
) -> dict:
    """Write the network of a checkpoint in any known format to a file, with a JSON card beside it.

    Branches are dropped. The image settings are those recorded in the file, else the model's defaults; files of other
    projects rarely record them.

    Args:
        checkpoint: The file to read, see `convert`.
        out: The file to write, as for `export`; it appears only once it is verified.
        model: The model that it must fit; default: as in `convert`.
        model_kwargs: Arguments of the model, beyond those that follow from the file.
        ema: Take the averaged weights (EMA) if there are any.
        mean: Channel means of the training images, in [0, 1], if not the model's.
        std: Channel standard deviations, likewise.
        img_size: Side of the images to evaluate at, in pixels, if not the model's.
        crop_pct: Fraction of the image that the crop keeps, if not the model's.
        class_names: Names of the classes, in order of index, if not those that the file records.

    Returns:
        The contents of the card.

    Raises:
        ValueError: The checkpoint cannot be read or fits no model, `out` cannot be written, mean or std has another
            number of channels than the network, `class_names` is not one name per class, or the size or crop is
            invalid.
        VerificationFailed: The written file does not reproduce the network's logits.
    """
    out, source = check_target(out), f'checkpoint {os.fspath(checkpoint)!r}'
    contents = read_any(checkpoint)
    averaged = any(isinstance(contents.get(key), dict) and contents[key] for key in AVERAGED)
    if averaged and ema:
        _logger.info('%s: using its averaged weights (--no-ema: the raw weights)', source)
    elif averaged:
        contents = {key: contents[key] for key in contents if key not in AVERAGED}
    elif not ema:
        _logger.warning('%s: --no-ema has no effect, it has only one set of weights', source)
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
    if class_names is not None and (len(class_names) != net.num_classes or not all(class_names)):
        given = len(list(filter(None, class_names)))
        raise ValueError(f'{given} class names for {net.num_classes} classes (give one for each, and no empty ones)')
    if not recorded.keys() >= {'mean', 'std'} and None in (mean, std, img_size, crop_pct):
        said = 'mean {mean}, std {std}, size {input_size}, crop {crop_pct}'.format_map(data)
        _logger.info('%s: it does not say how images are prepared; using %s (see dkszoo convert --help)', source, said)
    card = {
        'arch': arch,
        'model_args': arguments,
        'ema': known.get('ema', averaged and ema),
        'design': known.get('design', converted.design),
        'method': known.get('method'),
        'tag': known.get('tag', tag_of(known)),
        'class_names': known.get('class_names') if class_names is None else list(class_names),
        'dataset': known.get('dataset'),
        'data': data,
        'source': {'file': Path(checkpoint).name, 'sha256': sha256(checkpoint)},
        'dkszoo_version': dkszoo.__version__,
    }
    return write_network(out, DeeplySupervised(net), card)


def normalised_with(data: dict, mean: Sequence[float] | None, std: Sequence[float] | None) -> dict:
    """Image settings with `mean` and `std` replaced if given.

    Raises:
        ValueError: Their number of channels is not that of the settings.
    """
    in_chans, data = data['input_size'][0], dict(data)
    for key, value in (('mean', mean), ('std', std)):
        if value is not None:
            data[key] = list(fit_channels(value, in_chans) if len(value) == 1 else value)
        if len(data[key]) != in_chans:
            raise ValueError(f'the network takes {in_chans} channels (give --{key} one number, or one per channel)')
    return data


def model_settings(net: nn.Module, in_chans: int | None) -> dict:
    """Image settings of a model's configuration, adapted to `in_chans` channels if given."""
    data = timm.data.resolve_data_config({}, model=net, use_test_size=True)
    in_chans = in_chans or data['input_size'][0]
    for key in ('mean', 'std'):
        data[key] = fit_channels(data[key], in_chans)
    return {**data, 'input_size': (in_chans, *data['input_size'][1:])}
