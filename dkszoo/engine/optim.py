"""Optimizer and learning-rate schedule, by timm's names."""

import difflib
import math
from collections.abc import Collection
from functools import partial

import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from .config import TrainConfig
from .contents import is_finite, is_number

SCHEDULES = 'cosine, step, multistep, poly, tanh or constant'  # those of timm that need no flags of their own
# Of a group, that flags set; so are all its bools (nesterov), by --opt.
SETTINGS = ('lr', 'initial_lr', 'lr_scale', 'max_lr_snapshot', 'weight_decay', 'momentum', 'beta1', 'algo')


def build_optimizer(config: TrainConfig, trainable: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer over everything that trains.

    Raises:
        ValueError: timm knows no optimizer of that name, it does not take these arguments, or it needs second
            derivatives, which the losses have not.
    """
    try:
        optimizer = create_optimizer_v2(
            trainable,
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=config.filter_bias_and_bn,
            layer_decay=config.layer_decay,
            param_group_fn=partial(branch_groups, config) if branches_differ(config) else None,
            **(config.opt_kwargs or {}),
        )
    except (ValueError, AssertionError, TypeError) as error:
        known = list_optimizers()
        near = [] if config.opt in known else difflib.get_close_matches(config.opt, known, 2)
        hint = f' (did you mean {" or ".join(near)}?)' if near else ''
        raise ValueError(f'cannot make optimizer {config.opt!r}: {error}{hint}') from error
    if getattr(optimizer, 'is_second_order', False):
        raise ValueError(f'optimizer {config.opt!r} needs second derivatives, which are not had here (choose another)')
    return optimizer


def branches_differ(config: TrainConfig) -> bool:
    """Whether the branches have a learning rate of their own."""
    return config.branch_lr_scale != 1.0 or config.branch_warmup_epochs > 0


def branch_groups(config: TrainConfig, trainable: nn.Module) -> list[dict]:
    """timm's parameter groups, those that hold parameters of the backbone and others in two."""
    common = dict(
        weight_decay=config.weight_decay,
        weight_decay_exclude_1d=config.filter_bias_and_bn,
        no_weight_decay_list=trainable.no_weight_decay(),
    )
    if config.layer_decay is not None:
        groups = param_groups_layer_decay(trainable, layer_decay=config.layer_decay, **common)
    else:
        groups = param_groups_weight_decay(trainable, **common)
    backbone = {id(p) for p in trainable.net.backbone.parameters()}
    split = []
    for group in groups:
        for is_branch in (False, True):
            members = [p for p in group['params'] if (id(p) not in backbone) == is_branch]
            if members:
                split.append({**group, 'params': members, 'branch': is_branch})
    return split


class BranchSchedule:
    """A schedule in which all that is not the backbone's has a factor of its own, with a warm-up.

    In epoch t of a warm-up of n epochs, from 0, the factor is (t + 1) / (n + 1) of what it is afterwards. It goes into
    `lr_scale` of the parameter groups, which timm's schedules multiply by, on top of what layer decay has put there.

    Args:
        optimizer: Made with `branch_groups`.
        schedule: timm's schedule; None for a constant rate.
        config: The settings of the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Scheduler | None, config: TrainConfig):
        self.optimizer, self.schedule, self.config = optimizer, schedule, config
        self.scales = [group.get('lr_scale', 1.0) for group in optimizer.param_groups]

    def step(self, epoch: int) -> None:
        """Set the rates of an epoch."""
        config = self.config
        factor = config.branch_lr_scale * min(1.0, (epoch + 1) / (config.branch_warmup_epochs + 1))
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group['lr_scale'] = scale * factor if group['branch'] else scale
            if self.schedule is None:
                group['lr'] = config.lr * group['lr_scale']
        if self.schedule is not None:
            self.schedule.step(epoch)

    def step_update(self, update: int) -> None:
        """Set the rates of an update, counted from the start of the run; of the epoch that `step` was called for."""
        if self.schedule is not None:
            self.schedule.step_update(update)

    def state_dict(self) -> dict:
        return {} if self.schedule is None else self.schedule.state_dict()

    def load_state_dict(self, state: dict) -> None:
        if self.schedule is not None:
            self.schedule.load_state_dict(state)


def build_scheduler(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int
) -> Scheduler | BranchSchedule | None:
    """A schedule by the epoch or by the update; None for a constant rate.

    Args:
        config: The settings of the run.
        optimizer: Whose rates it sets.
        steps: Steps an epoch.

    Raises:
        ValueError: Unknown; or a schedule that follows the validation figures: timm gives up on saving its state.
    """
    if config.sched == 'plateau':
        raise ValueError(f'--sched plateau cannot go on exactly after a break (choose {SCHEDULES})')
    updates = updates_per_epoch(config, steps)
    # timm lowers the rate one unit before a milestone, an epoch or an update: the latter is still of the epoch before
    early = 1 - 0.5 / updates if config.sched_on_updates else 0
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=config.epochs,
            decay_epochs=config.decay_epochs,
            decay_milestones=[m - early for m in sorted(config.decay_milestones)],
            decay_rate=config.decay_rate,
            min_lr=config.min_lr,
            warmup_lr=config.warmup_lr,
            warmup_epochs=config.warmup_epochs,
            step_on_epochs=not config.sched_on_updates,
            updates_per_epoch=updates,
        )
    except (ValueError, AssertionError) as error:
        raise ValueError(f'cannot make schedule {config.sched!r}: {error} (choose {SCHEDULES})') from error
    if branches_differ(config):
        return BranchSchedule(optimizer, schedule, config)
    if schedule is None:  # nobody else will look at what layer decay has put there
        for group in optimizer.param_groups:
            group['lr'] = config.lr * group.get('lr_scale', 1.0)
    return schedule


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, keep: Collection[str]) -> None:
    """Restore what an optimizer has gathered, except the settings to keep; with any of them it keeps its switches, too.

    Raises:
        ValueError: Its groups lack a setting that this optimizer has, or have one of another kind; or torch's own.
        KeyError, TypeError, AttributeError: Torch's own, where the state is none at all.
    """
    built = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, built, strict=True):
        for key, value in own.items():
            if key not in group or not alike(group[key], value):
                raise ValueError(f'{key} of a parameter group is missing or is no {type(value).__name__}')
        if keep:
            group.update({key: value for key, value in own.items() if key in keep or isinstance(value, bool)})
    if not all(isinstance(gathered, dict) for gathered in optimizer.state.values()):
        raise ValueError('what it has gathered of a parameter is no dict')


def load_schedule(scheduler: Scheduler | BranchSchedule, state: dict | None) -> None:
    """Restore a schedule; entries that it does not have, such as methods by another name, are left out.

    Raises:
        ValueError: The state is none, or an entry is of another kind than the schedule's own.
    """
    if state is None:
        raise ValueError('there is none')
    own = scheduler.state_dict()
    for key in own.keys() & state.keys():
        if not alike(state[key], own[key]):
            raise ValueError(f'{key} is no {type(own[key]).__name__}')
    scheduler.load_state_dict({key: value for key, value in state.items() if key in own})


def alike(value, own) -> bool:
    """Whether a value from a file can stand for our own: a number for a number, as many in a list; any for None."""
    if own is None:
        return value is None or isinstance(value, int | float)
    if isinstance(own, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(own) and all(map(alike, value, own))
    return is_finite(value) if is_number(own) else type(value) is type(own)


def updates_per_epoch(config: TrainConfig, steps: int) -> int:
    """Updates in an epoch of so many steps; the last may gather fewer steps than the others."""
    return math.ceil(steps / config.grad_accum_steps)


def set_rates(
    scheduler: Scheduler | BranchSchedule | None, config: TrainConfig, steps: int, epoch: int, step: int
) -> None:
    """Set the learning rates of the update that starts with a step of an epoch; both count from 0.

    They follow from where training is alone, so a run that goes on after a break has those of an unbroken one.
    """
    if scheduler is not None:
        scheduler.step(epoch)
        scheduler.step_update(epoch * updates_per_epoch(config, steps) + step // config.grad_accum_steps)
