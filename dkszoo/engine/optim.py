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

SCHEDULES = 'cosine, step, multistep, poly, tanh or constant'  # those of timm that need no further flags
# Entries of a parameter group that flags set; --opt also sets all its bools (nesterov).
SETTINGS = ('lr', 'initial_lr', 'lr_scale', 'max_lr_snapshot', 'weight_decay', 'momentum', 'beta1', 'algo')


def build_optimizer(config: TrainConfig, trainable: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer over everything that trains.

    Raises:
        ValueError: Unknown optimizer, arguments it does not take, or one that needs second derivatives, which the
            losses do not provide.
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
        raise ValueError(f'optimizer {config.opt!r} needs second derivatives: not available here (choose another)')
    return optimizer


def branches_differ(config: TrainConfig) -> bool:
    """Whether the parameters outside the backbone have their own learning rate."""
    return config.branch_lr_scale != 1.0 or config.branch_warmup_epochs > 0


def branch_groups(config: TrainConfig, trainable: nn.Module) -> list[dict]:
    """timm's parameter groups, each split into parameters of the backbone and others."""
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
    """A schedule with a separate factor, with a warm-up, for all parameters outside the backbone.

    In epoch t, from 0, of a warm-up of n epochs the factor is (t + 1) / (n + 1) of its final value. It multiplies the
    `lr_scale` of the parameter groups, which timm's schedules multiply by, on top of layer decay.

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
        """Set the rates of an update, counted from the start of the run; call `step` with its epoch first."""
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
    """A schedule per epoch or per update; None for a constant rate.

    Args:
        config: The settings of the run.
        optimizer: Its learning rates are set.
        steps: Steps per epoch.

    Raises:
        ValueError: Unknown schedule, or plateau: timm saves only part of its state.
    """
    if config.sched == 'plateau':
        raise ValueError(f'--sched plateau cannot be resumed exactly (choose {SCHEDULES})')
    updates = updates_per_epoch(config, steps)
    # timm lowers the rate one epoch or one update before a milestone; that update would still be in the previous epoch
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
    if schedule is None:  # no schedule will apply the lr_scale of layer decay
        for group in optimizer.param_groups:
            group['lr'] = config.lr * group.get('lr_scale', 1.0)
    return schedule


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, keep: Collection[str]) -> None:
    """Restore an optimizer's state, except the settings to keep; if there are any, its bools are kept too.

    Raises:
        ValueError: A group lacks a setting that this optimizer has, or has one of another type; or torch's own.
        KeyError, TypeError, AttributeError: Torch's own, for an invalid state.
    """
    built = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, built, strict=True):
        for key, value in own.items():
            if key not in group or not alike(group[key], value):
                raise ValueError(f'{key} of a parameter group is missing or is not of type {type(value).__name__}')
        if keep:
            group.update({key: value for key, value in own.items() if key in keep or isinstance(value, bool)})
    if not all(isinstance(gathered, dict) for gathered in optimizer.state.values()):
        raise ValueError('the state of a parameter is not a dict')


def load_schedule(scheduler: Scheduler | BranchSchedule, state: dict | None) -> None:
    """Restore a schedule, except entries that it does not have: timm would set any attribute, even a method.

    Raises:
        ValueError: The state is None, or an entry has another type than the schedule's own.
    """
    if state is None:
        raise ValueError('there is none')
    own = scheduler.state_dict()
    for key in own.keys() & state.keys():
        if not alike(state[key], own[key]):
            raise ValueError(f'{key} is not of type {type(own[key]).__name__}')
    scheduler.load_state_dict({key: value for key, value in state.items() if key in own})


def alike(value, own) -> bool:
    """Whether a value from a file can replace our own: numbers for numbers, as many in a list; None or one for None."""
    if own is None:
        return value is None or isinstance(value, int | float)
    if isinstance(own, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(own) and all(map(alike, value, own))
    return is_finite(value) if is_number(own) else type(value) is type(own)


def updates_per_epoch(config: TrainConfig, steps: int) -> int:
    """Updates in an epoch; the last may accumulate fewer steps than the others."""
    return math.ceil(steps / config.grad_accum_steps)


def set_rates(
    scheduler: Scheduler | BranchSchedule | None, config: TrainConfig, steps: int, epoch: int, step: int
) -> None:
    """Set the learning rates of the update that starts with a step of an epoch, both counted from 0.

    They depend only on the position, so a resumed run has those of an uninterrupted one.
    """
    if scheduler is not None:
        scheduler.step(epoch)
        scheduler.step_update(epoch * updates_per_epoch(config, steps) + step // config.grad_accum_steps)
