"""Builds the parts of a run from its settings: data, task, optimizer, schedule."""

from dataclasses import dataclass

import torch
from timm.data import Mixup
from timm.loss import create_classification_loss
from timm.scheduler.scheduler import Scheduler
from timm.utils import NativeScaler

from dkszoo.branches import DeeplySupervised, attach_branches
from dkszoo.data import MemoryLoader, StreamSampler
from dkszoo.tasks import DeepSupervisionTask
from dkszoo.weights import check_arguments

from .compiled import compile_task
from .config import TrainConfig
from .create import WRONG_ARGUMENTS, create_model, load_body, weights_for
from .data import Data, train_stream
from .optim import BranchSchedule, build_optimizer, build_scheduler
from .rng import seed_all
from .teacher import build_teacher
from .world import World


@dataclass
class Setup:
    """All parts of a run."""

    config: TrainConfig
    world: World
    data: Data
    task: DeepSupervisionTask
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | BranchSchedule | None
    scaler: NativeScaler | None
    sampler: StreamSampler
    loader: torch.utils.data.DataLoader | MemoryLoader
    mixup: Mixup | None
    compiled: bool


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
        if config.default_branches() != 'none':
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
        mixup = Mixup(
            config.mixup,
            config.cutmix,
            prob=config.mixup_prob,
            switch_prob=config.mixup_switch_prob,
            mode=config.mixup_mode,
            label_smoothing=config.smoothing,
            num_classes=config.num_classes,
        )
    criterion = create_classification_loss(
        'bce' if config.bce_loss else None,
        smoothing=config.smoothing,
        soft_targets=mixup is not None,
        bce_target_thresh=config.bce_target_thresh,
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
        task.setup_ema(decay=config.model_ema_decay, use_warmup=config.model_ema_warmup)
    compiled = config.torchcompile and compile_task(task, config.torchcompile_mode)
    if world.size > 1:
        task.prepare_distributed(device_ids=[world.device] if world.device.type == 'cuda' else None)
    sampler, loader = train_stream(config, data.train, world)
    scheduler = build_scheduler(config, optimizer, sampler.steps)
    scaler = NativeScaler(device=world.device.type) if config.amp and config.amp_dtype == 'float16' else None
    return Setup(config, world, data, task, optimizer, scheduler, scaler, sampler, loader, mixup, compiled)
