"""The teacher that a run's settings name."""

import logging

import torch
from torch import nn

from dkszoo.data import compare_classes
from dkszoo.tasks import Teacher, get_method
from dkszoo.weights import identify, load_strictly, read_any, recorded_data, weighted_name

from .config import TrainConfig
from .create import check_name, create_model, known_cfg
from .evaluate import check_images

_logger = logging.getLogger(__name__)

REMEDY = 'give --kd-checkpoint FILE of a teacher trained on this data set'


def build_teacher(config: TrainConfig, classes: list[str] | None = None) -> Teacher | None:
    """The teacher, on the CPU; None for a method without one. `classes` are the class names of the data.

    Raises:
        ValueError: A teacher is missing or not needed, its weights are unavailable, or it has other classes, channels
            or image size than the data.
    """
    check_teacher(config)
    named = config.kd_model_name or config.kd_checkpoint
    if not named:
        return None
    if config.kd_checkpoint:
        model, data = from_checkpoint(config)
    else:
        model, data = from_name(config)
    known = data.get('label_names')
    if classes and known and list(known) != classes:
        differing = compare_classes(known, classes, ('there', 'in the data'))
        raise ValueError(f'teacher {named!r} learned other classes: {differing} ({REMEDY})')
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    stats = {key: data.get(key) or (cfg.get(key) if is_of_weights(cfg) else None) for key in ('mean', 'std')}
    if any(value is None or len(value) != config.in_chans for value in stats.values()):
        stats = {'mean': config.mean, 'std': config.std}
    size = (config.in_chans, config.img_size, config.img_size)
    check_images(model, f'teacher {named}', size, f'train with --img-size N, or {REMEDY}')
    _logger.info('teacher: %s, mean %s, std %s', cfg.get('architecture', named), *stats.values())
    return Teacher(
        model,
        stats['mean'],
        stats['std'],
        config.mean,
        config.std,
        (config.img_size, config.img_size),
        getattr(torch, config.kd_dtype) if config.kd_dtype else None,
    )


def check_teacher(config: TrainConfig) -> None:
    """Raise a ValueError if the method needs a teacher and none is named, or one is named and not needed."""
    method, named = config.method, config.kd_model_name or config.kd_checkpoint
    needed = get_method(method).uses_teacher
    if named and not needed:
        raise ValueError(f'method {method!r} has no use for a teacher (try --method {method}+kd)')
    if needed and not named:
        raise ValueError(f'method {method!r} needs a teacher (give --kd-model-name NAME, --kd-checkpoint FILE or both)')


def from_name(config: TrainConfig) -> tuple[nn.Module, dict]:
    """A teacher with pretrained weights, and what is known about its data."""
    check_name(config.kd_model_name)
    name = weighted_name(config.kd_model_name)
    cfg = known_cfg(name)
    data = {key: cfg.get(key) for key in ('input_size', 'mean', 'std', 'label_names')}
    check_fit(config, name, cfg.get('num_classes'), data['input_size'])
    try:
        model = create_model(name, pretrained=True)
    except (RuntimeError, TypeError, OSError) as error:
        raise ValueError(f'cannot get the weights of teacher {name!r}: {error} ({REMEDY})') from error
    check_fit(config, name, model.num_classes)
    return model, data


def from_checkpoint(config: TrainConfig) -> tuple[nn.Module, dict]:
    """A teacher with the weights of a file, and what the file says about its data."""
    path = config.kd_checkpoint
    contents, source = read_any(path), f'checkpoint {path!r}'
    converted, data = identify(contents, source, config.kd_model_name or None), recorded_data(contents, source)
    model = create_model(converted.model, **converted.model_kwargs)
    check_fit(config, path, model.num_classes, data.get('input_size') or (model.in_chans,))
    load_strictly(model, converted.backbone, f'teacher {path!r}')
    return model, data


def is_of_weights(cfg: dict) -> bool:
    """Whether a `pretrained_cfg` describes weights; if not, its statistics are mere defaults."""
    return any(cfg.get(key) for key in ('url', 'hf_hub_id', 'file'))


def check_fit(config: TrainConfig, name: str, num_classes: int | None, input_size: tuple = ()) -> None:
    """Reject a teacher whose classes, channels or image size differ from the run's; unknown values pass."""
    if num_classes is not None and num_classes != config.num_classes:
        raise ValueError(f'teacher {name!r} has {num_classes} classes, the data {config.num_classes} ({REMEDY})')
    in_chans, *size = input_size or (config.in_chans,)
    if in_chans != config.in_chans:
        raise ValueError(
            f'teacher {name!r} takes {in_chans} channels, the images have {config.in_chans} '
            f'(train with --in-chans {in_chans}, or {REMEDY})'
        )
    if size and size[-1] != config.img_size:
        raise ValueError(
            f'teacher {name!r} takes images of {size[-1]} px, training is at {config.img_size} px '
            f'(train with --img-size {size[-1]}, or {REMEDY})'
        )
