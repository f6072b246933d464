"""What a training checkpoint must hold, checked before any of it is used."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

MOST_COUNT = 2**53


@dataclass
class Progress:
    """The position of a run, and its history.

    Attributes:
        epoch: The current epoch, from 0.
        step: Steps of it that are done.
        updates: Parameter updates done in total.
        sums: Running totals of the training figures of this epoch.
        seconds: Time the epoch has taken so far, without breaks.
        history: One row per finished epoch.
        best_epoch: The best epoch so far, or None.
        best_metric: Its top-1 accuracy in percent.
        skipped: Non-finite losses skipped.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    best_epoch: int | None = None
    best_metric: float | None = None
    skipped: int = 0


def check_contents(checkpoint: dict) -> None:
    """Check that a checkpoint has all entries that an exact resume reads, each of the right type.

    Raises:
        ValueError: An entry is missing or invalid (names the first).
    """
    check_entries(checkpoint, ENTRIES, OPTIONAL)
    check_entries(checkpoint['dkszoo'], OWN)
    for process in checkpoint['dkszoo']['processes']:
        check_entries(process, PROCESS)
    progress = checkpoint['dkszoo']['progress']
    check_entries(progress, PROGRESS, LATER)
    if unknown := progress.keys() - PROGRESS.keys() - LATER.keys():
        raise ValueError(f'its progress has an unknown entry {min(map(str, unknown))[:50]!r}')
    for epoch, row in enumerate(progress['history']):
        check_entries(row, ROW)
        if row['epoch'] != epoch:
            raise ValueError(f'its history has epoch {row["epoch"]} where {epoch} belongs')
    done, best = progress['epoch'], progress['best_epoch']
    if len(progress['history']) != done:
        raise ValueError(f'its history has {len(progress["history"])} epochs, but {done} are done')
    if (best is None) != (progress['best_metric'] is None) or (best is not None and best >= done):
        raise ValueError(f'its best epoch is not one of the {done} that are done')


def check_entries(entries, required: dict[str, Callable], optional: dict[str, Callable] | None = None) -> None:
    """Raise a ValueError that names the first entry that is missing or fails its check."""
    if not isinstance(entries, dict):
        raise ValueError(f'it has {type(entries).__name__} where {", ".join(required)} belong')
    for name, good in (required | (optional or {})).items():
        if name not in entries and name in required:
            raise ValueError(f'it has no {name!r}')
        if name in entries and not good(entries[name]):
            raise ValueError(f'its {name!r} is invalid')


def is_count(value) -> bool:
    return type(value) is int and 0 <= value <= MOST_COUNT


def is_number(value) -> bool:
    """Whether it is a float, or an integer that a float represents exactly; a bool is not."""
    return type(value) is float or (type(value) is int and abs(value) <= MOST_COUNT)


def is_finite(value) -> bool:
    return is_number(value) and math.isfinite(value)


def is_dict(value) -> bool:
    return isinstance(value, dict)


def are_figures(value) -> bool:
    return is_dict(value) and all(type(key) is str and is_number(figure) for key, figure in value.items())


def are_judged(value) -> bool:
    """Whether they are the figures of an evaluation, with or without 'best_on'."""
    return is_dict(value) and are_figures({key: v for key, v in value.items() if key != 'best_on'})


def are_tensors(value) -> bool:
    return is_dict(value) and all(type(k) is str and isinstance(v, torch.Tensor) for k, v in value.items())


def or_none(good: Callable) -> Callable:
    return lambda value: value is None or good(value)


ENTRIES = {
    'epoch': is_count,
    'arch': lambda value: type(value) is str,
    'args': is_dict,
    'optimizer': is_dict,
    'state_dict': are_tensors,
}
OPTIONAL = {'task_state': is_dict, 'state_dict_ema': are_tensors, 'task_state_ema': is_dict, 'metric': is_finite}
OWN = {
    'progress': is_dict,
    'processes': lambda value: isinstance(value, list) and len(value) > 0,
    'scheduler': or_none(is_dict),
}
PROCESS = {'rng': is_dict, 'sums': are_figures}
PROGRESS = {
    'epoch': is_count,
    'step': is_count,
    'updates': is_count,
    'history': lambda value: isinstance(value, list),
    'best_epoch': or_none(is_count),
    'best_metric': or_none(is_finite),
    'skipped': is_count,
}
LATER = {'seconds': lambda value: is_finite(value) and value >= 0}  # older checkpoints lack it
ROW = {'epoch': is_count, 'lr': is_number, 'train': are_figures, 'eval': are_judged}
