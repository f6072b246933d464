"""Builds the parts of a run from its settings: data, task, optimizer, schedule."""

import dataclasses
from dataclasses import dataclass

import torch
from timm.data import Mixup
from timm.loss import create_classification_loss
from timm.utils import NativeScaler
from torch.utils.data import Dataset

from dkszoo.branches import DeeplySupervised, attach_branches
from dkszoo.data import (
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
from dkszoo.tasks import DeepSupervisionTask, get_method
from dkszoo.weights import check_arguments, fit_channels, read_any, recorded_data, weighted_name

from .compiled import compile_task
from .config import TrainConfig
from .create import WRONG_ARGUMENTS, check_name, create_model, known_cfg, load_body, read_design, weights_for
from .evaluate import evaluation_crop
from .optim import build_optimizer, build_scheduler
from .rng import seed_all
from .teacher import build_teacher, is_of_weights
from .world import World


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


@dataclass
class Setup:
    """All parts of a run."""

    config: TrainConfig
    world: World
    data: Data
    task: DeepSupervisionTask
    optimizer: torch.optim.Optimizer
    scheduler: object | None
    scaler: NativeScaler | None
    sampler: StreamSampler
    loader: torch.utils.data.DataLoader | MemoryLoader
    mixup: Mixup | None
    compiled: bool


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
    name = weighted_name(config.model) if config.pretrained else config.model
    cfg = known_cfg(name)
    own = config.pretrained or facts.mean is None
    if config.initial_checkpoint:
        said = recorded_data(read_any(config.initial_checkpoint), f'checkpoint {config.initial_checkpoint!r}')
        own = own or is_of_weights(cfg) or bool(said.get('mean'))
        cfg |= {key: value for key, value in said.items() if value}
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
        branches=read_design(config.branches or default_branches(config)),
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
    loader = choose_loader(config.loader, view, img_size, in_chans, config.pad, config.aa)
    return dataclasses.replace(config, loader=loader), Data(view, val, View(test, None, mode), classes, flips)


def default_branches(config: TrainConfig) -> str:
    """The branch design if none was given: the method's, or 'none' if its settings need no branches."""
    method = get_method(config.method)
    return method.design or 'auto' if method.needs_branches(config) else 'none'


def model_arguments(config: TrainConfig) -> dict:
    """The arguments of the model's constructor; an export records them for `load`."""
    arguments = dict(num_classes=config.num_classes, in_chans=config.in_chans)
    if config.drop:
        arguments['drop_rate'] = config.drop
    if config.drop_path is not None:
        arguments['drop_path_rate'] = config.drop_path
    for key in arguments.keys() & (config.model_kwargs or {}).keys():
        raise ValueError(f'--model-kwargs has {key!r}, which has a flag of its own (--print-config shows it)')
    return {**arguments, **check_arguments(config.model_kwargs or {}, '--model-kwargs')}


def build_net(config: TrainConfig) -> DeeplySupervised:
    """The network with its branches and its initial weights.

    Raises:
        ValueError: The model does not take these arguments or the branches, or its weights are unavailable.
    """
    checkpoint, arguments = config.initial_checkpoint, model_arguments(config)
    try:
        model = create_model(config.model, pretrained=config.pretrained, **arguments)
        if checkpoint:
            given = {key: value for key, value in arguments.items() if key != 'num_classes'}
            state, needed = weights_for(config.model, checkpoint, given)
            needed = ' '.join(f'{key}={value}' for key, value in needed.items() if key != 'num_classes')
            if needed:
                raise ValueError(
                    f'--initial-checkpoint is of a {config.model} with {needed} (add --model-kwargs {needed})'
                )
            load_body(model, state, f'checkpoint {checkpoint!r}')
    except WRONG_ARGUMENTS as error:
        here = config.pretrained and isinstance(error, OSError)  # no network, or no disk space
        cure = ' (--initial-checkpoint FILE takes local weights)' if here else ''
        raise ValueError(f'cannot make model {config.model!r}: {error}{cure}') from error
    if config.branches in ('', 'none'):
        if default_branches(config) != 'none':
            raise ValueError(f'method {config.method!r} needs branches (leave --branches {config.branches} out)')
        if config.taps:
            raise ValueError(f'--taps without branches (method {config.method!r} has none; add --branches)')
        return DeeplySupervised(model)
    return attach_branches(model, config.branches, config.taps)


def build(config: TrainConfig, data: Data, world: World) -> Setup:
    """Build everything but the run folder. Seeds all generators: `config.seed` determines the initial weights."""
    if config.deterministic:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    seed_all(config.seed)
    net = build_net(config)
    if config.grad_checkpointing:
        net.set_grad_checkpointing()
    net.to(world.device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    mixup = None
    if config.mixup > 0 or config.cutmix > 0:
        mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=config.num_classes)
    criterion = create_classification_loss(
        'bce' if config.bce_loss else None, smoothing=config.smoothing, soft_targets=mixup is not None
    )
    teacher = build_teacher(config, data.classes)
    seed_all(config.seed)  # the terms' parameters do not depend on the teacher
    task = DeepSupervisionTask(net, config.method, criterion, teacher, world.device, **config.given())
    seed_all(config.seed + 1 + world.rank)  # for what training draws, such as dropout
    trainable = task.get_trainable_module()
    trainable.report_branches = True
    optimizer = build_optimizer(config, trainable)
    if world.size > 1 and 'kron' in config.opt:
        raise ValueError(f'--opt {config.opt} draws different random numbers in every process (choose another)')
    if config.model_ema:
        task.setup_ema(decay=config.model_ema_decay)
    compiled = config.torchcompile and compile_task(task, config.torchcompile_mode)
    if world.size > 1:
        task.prepare_distributed(device_ids=[world.device] if world.device.type == 'cuda' else None)
    sampler, loader = train_stream(config, data.train, world)
    scheduler = build_scheduler(config, optimizer, sampler.steps)
    scaler = NativeScaler(device=world.device.type) if config.amp and config.amp_dtype == 'float16' else None
    return Setup(config, world, data, task, optimizer, scheduler, scaler, sampler, loader, mixup, compiled)


def train_stream(config: TrainConfig, view: View, world: World):
    """The sampler and loader of the training images.

    Raises:
        ValueError: There are too few images for one step.
    """
    sampler = StreamSampler(len(view), config.batch_size, config.seed, world.rank, world.size)
    if not sampler.steps:
        raise ValueError(f'{len(view)} training images are too few for one step (at least 2 per process are needed)')
    augmentation = Augmentation(config.pad, config.pad_mode, config.hflip, config.reprob, config.cutout)
    if config.loader == 'memory':
        images, targets = read_pixels(view, pixel_transform(config.img_size, config.interpolation))
        augmentation = Augmentation() if config.no_aug else augmentation
        return sampler, MemoryLoader(images, targets, sampler, augmentation, config.mean, config.std, world.device)
    keys = ('img_size', 'mean', 'std', 'interpolation', 'no_aug', 'color_jitter', 'crop_pct')
    how = dict(augmentation=augmentation, auto_augment=config.aa, crop_mode=config.train_crop_mode)
    view.transform = train_transform(**{key: getattr(config, key) for key in keys}, **how)
    return sampler, stream_loader(view, sampler, config.workers, pin_memory=world.device.type == 'cuda')
