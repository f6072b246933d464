"""Opens the data set of a run, and makes the stream of its training images."""

import dataclasses
import logging
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from dkszoo.data import (
    SMALL,
    Augmentation,
    Flip,
    MemoryLoader,
    StreamSampler,
    View,
    balanced_subset,
    choose_loader,
    class_names,
    class_targets,
    compare_classes,
    corrupt_labels,
    data_facts,
    open_dataset,
    pixel_transform,
    read_pixels,
    read_sample,
    split_indices,
    stream_loader,
    train_transform,
)
from dkszoo.weights import fit_channels, read_any, recorded_data, weighted_name

from .config import TrainConfig, flag
from .create import check_name, known_cfg, read_design
from .evaluate import evaluation_crop
from .teacher import is_of_weights
from .world import World

_logger = logging.getLogger(__name__)

PADDING = ('pad', 'pad_mode')  # of images up to 64 px
CROPS = ('scale', 'ratio', 'train_interpolation')  # of larger ones, in timm's crops


@dataclass(frozen=True)
class Data:
    """The parts of the data set.

    Attributes:
        train: The training images.
        val: The held-out ones; None if there are none.
        test: The test set.
        classes: Names of the classes, if known.
        flips: The training labels that were made wrong.
    """

    train: View
    val: View | None
    test: View
    classes: list[str] | None
    flips: list[Flip] = dataclasses.field(default_factory=list)


def open_data(config: TrainConfig) -> tuple[TrainConfig, Data]:
    """Open the data set and fill in the settings that follow from it and from the model's name.

    Raises:
        ValueError: No such model or data set; class or channel counts that do not fit.
    """
    check_name(config.model)
    in_chans = config.in_chans or data_facts(config.dataset).in_chans
    if in_chans not in (1, 3):
        raise ValueError(f'--in-chans must be 1 or 3 for images, got {in_chans}')
    train, test = (open_dataset(config.dataset, config.data_dir, split, in_chans) for split in ('train', 'test'))
    return fit_data(dataclasses.replace(config, in_chans=in_chans), train, test)


def fit_data(config: TrainConfig, train: Dataset, test: Dataset) -> tuple[TrainConfig, Data]:
    """As `open_data`, for data sets that are already open; `config.in_chans` must be set."""
    facts, in_chans = data_facts(config.dataset), config.in_chans
    classes = class_names(train)
    num_classes = config.num_classes or (len(classes) if classes else None)
    if num_classes is None:
        raise ValueError(f'data set {config.dataset!r} does not say how many classes it has (give --num-classes)')
    if classes and num_classes < len(classes):
        raise ValueError(f'--num-classes {num_classes} is too few for the {len(classes)} classes of the data set')
    if num_classes == 1 and not config.num_classes:
        raise ValueError('the data set has one class (an image folder needs one sub-folder per class)')
    if classes and (found := class_names(test)) not in (None, classes):
        raise ValueError(f'the test set has other classes: {compare_classes(classes, found)} (check the folders)')
    cfg, own = input_cfg(config)
    own = own or facts.mean is None
    input_size = cfg.get('input_size', (3, 224, 224))
    img_size = config.img_size or facts.img_size or input_size[-1]
    stats = {key: (cfg.get(key) if own else getattr(facts, key)) or (0.5,) for key in ('mean', 'std')}
    for key, value in stats.items():
        given = getattr(config, key)
        if given and len(given) not in (1, in_chans):
            raise ValueError(f'--{key} has {len(given)} values for {in_chans} channels (give one, or one per channel)')
        stats[key] = fit_channels(given or value, in_chans)
    config = dataclasses.replace(
        config,
        num_classes=num_classes,
        img_size=img_size,
        pad=facts.pad if config.pad is None else config.pad,
        hflip=facts.hflip if config.hflip is None else config.hflip,
        branches=read_design(config.branches or config.default_branches()),
        **evaluation_crop(config, img_size, cfg),
        **stats,
    )
    mode, targets = 'L' if in_chans == 1 else 'RGB', class_targets(train)
    kept, held = split_indices(len(train), targets, config.val_split)
    if config.train_num_samples is not None:
        kept = balanced_subset(kept, targets, config.train_num_samples)
    view, val, flips = View(train, kept, mode), View(train, held, mode) if held else None, []
    if config.label_noise:
        targets = [int(read_sample(train, i)[1]) for i in kept] if targets is None else [targets[i] for i in kept]
        total = len(classes or ()) or num_classes
        view.targets, flips = corrupt_labels(targets, config.label_noise, total, config.noise_seed, kept)
    loader = choose_loader(config.loader, view, img_size, in_chans, config.augmentation(), config.aa)
    return dataclasses.replace(config, loader=loader), Data(view, val, View(test, None, mode), classes, flips)


def warn_of_crop(config: TrainConfig) -> None:
    """Warn about settings of the training crop that images of this size do not get."""
    large, squash = config.img_size > SMALL, config.train_crop_mode == 'squash'
    default = {f.name: f.default for f in dataclasses.fields(config)} | {'pad': data_facts(config.dataset).pad}
    idle = PADDING if large else ('train_crop_mode',)
    if squash or not large:
        idle += CROPS
    if not (config.aa or '').startswith('3a') and (squash or not large or config.aa) and config.color_jitter:
        idle += ('color_jitter',)
    given = [flag(name) for name in idle if getattr(config, name) != default[name]]
    if given and not config.no_aug:
        _logger.warning('no effect on images of %d px: %s (see docs/data.md)', config.img_size, ', '.join(given))


def input_cfg(config: TrainConfig) -> tuple[dict, bool]:
    """What the model's configuration and its first weights say of its images, and whether they go before the data's.

    Raises:
        ValueError: The weights are for another number of channels.
    """
    cfg = known_cfg(weighted_name(config.model) if config.pretrained else config.model)
    path = config.initial_checkpoint
    if not path:
        return cfg, config.pretrained
    said = recorded_data(read_any(path), f'checkpoint {path!r}')
    takes, *_ = said.get('input_size') or (config.in_chans,)
    if takes != config.in_chans:
        raise ValueError(
            f'checkpoint {path!r} takes {takes} channels, the images have {config.in_chans} '
            f'(train with --in-chans {takes})'
        )
    own = config.pretrained or is_of_weights(cfg) or bool(said.get('mean'))
    return {**cfg, **{key: value for key, value in said.items() if value}}, own


def train_stream(
    config: TrainConfig, view: View, world: World
) -> tuple[StreamSampler, torch.utils.data.DataLoader | MemoryLoader]:
    """The sampler and loader of the training images.

    Raises:
        ValueError: There are too few images for one step.
    """
    sampler = StreamSampler(len(view), config.batch_size, config.seed, world.rank, world.size)
    if not sampler.steps:
        raise ValueError(f'{len(view)} training images are too few for one step (at least 2 per process are needed)')
    augmentation = config.augmentation()
    if config.loader == 'memory':
        images, targets = read_pixels(view, pixel_transform(config.img_size, config.interpolation))
        augmentation = Augmentation() if config.no_aug else augmentation
        return sampler, MemoryLoader(images, targets, sampler, augmentation, config.mean, config.std, world.device)
    keys = ('img_size', 'mean', 'std', 'no_aug', 'color_jitter', 'crop_pct', 'scale', 'ratio')
    how = dict(augmentation=augmentation, auto_augment=config.aa, crop_mode=config.train_crop_mode)
    how |= dict(interpolation=config.interpolation, crop_interpolation=config.train_interpolation)
    view.transform = train_transform(**{key: getattr(config, key) for key in keys}, **how)
    return sampler, stream_loader(view, sampler, config.workers, pin_memory=world.device.type == 'cuda')
