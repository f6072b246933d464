"""Training checkpoints: timm's keys, and under 'dkszoo' what an exact resume needs. Plain data only."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

import dkszoo
from dkszoo.weights import read_pickle, write_durably

from .rng import rng_state, set_rng_state
from .setup import Setup, model_arguments

FORMAT = 1
LAST, BEST = 'last.pth.tar', 'model_best.pth.tar'


@dataclass
class Progress:
    """Where a run is, and what it has seen.

    Attributes:
        epoch: The epoch under way, from 0.
        step: Steps of it that are done.
        updates: Parameter updates done in all.
        sums: Running totals of the training figures of this epoch.
        history: One row a finished epoch.
        best_epoch: The best epoch so far, or None.
        best_metric: Its top-1 accuracy in percent.
        skipped: Non-finite losses passed over.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    best_epoch: int | None = None
    best_metric: float | None = None
    skipped: int = 0


def describe_model(setup: Setup) -> dict:
    """What it takes to make the network again and to feed it; an export copies it."""
    config, net = setup.config, setup.task.get_net()
    return {
        'arch': config.model,
        'model_args': model_arguments(config),
        'design': net.design,
        'taps': list(net.taps),
        'method': config.method,
        'class_names': setup.data.classes,
        'dataset': config.dataset,
        'data': {
            'input_size': [config.in_chans, config.img_size, config.img_size],
            'mean': list(config.mean),
            'std': list(config.std),
            'interpolation': config.interpolation,
            'crop_pct': config.crop_pct,
            'crop_mode': 'center',
        },
    }


def capture(setup: Setup, progress: Progress, metric: float | None = None) -> dict:
    """Everything that evolves, as one checkpoint."""
    config, task = setup.config, setup.task
    state = {
        'epoch': progress.epoch,
        'arch': config.model,
        'args': config.to_dict(),
        'optimizer': setup.optimizer.state_dict(),
        'version': 2,
        **task.get_checkpoint_state(),
        **(task.get_checkpoint_state(ema=True) if task.has_ema() else {}),
        'dkszoo': {
            'format': FORMAT,
            'version': dkszoo.__version__,
            'seed': config.seed,
            'model': describe_model(setup),
            'progress': asdict(progress),
            'rng': rng_state(setup.world.device),
            'scheduler': setup.scheduler.state_dict() if setup.scheduler is not None else None,
        },
    }
    if setup.scaler is not None:
        state[setup.scaler.state_dict_key] = setup.scaler.state_dict()
    if metric is not None:
        state['metric'] = metric
    return state


def restore(setup: Setup, checkpoint: dict) -> Progress:
    """Put everything a checkpoint holds back in place.

    Raises:
        ValueError: It lacks something this run has.
    """
    task, own = setup.task, checkpoint['dkszoo']
    task.load_checkpoint_state(checkpoint['state_dict'], checkpoint.get('task_state'))
    if task.has_ema():
        if 'state_dict_ema' not in checkpoint:
            raise ValueError('the checkpoint has no averaged weights (it was made without --model-ema)')
        task.load_checkpoint_state(checkpoint['state_dict_ema'], checkpoint.get('task_state_ema'), ema=True)
    setup.optimizer.load_state_dict(checkpoint['optimizer'])
    if setup.scheduler is not None and own['scheduler'] is not None:
        setup.scheduler.load_state_dict(own['scheduler'])
    if setup.scaler is not None and setup.scaler.state_dict_key in checkpoint:
        setup.scaler.load_state_dict(checkpoint[setup.scaler.state_dict_key])
    set_rng_state(own['rng'], setup.world.device)
    return Progress(**own['progress'])


def read_checkpoint(path: str | os.PathLike) -> dict:
    """A training checkpoint of ours.

    Raises:
        ValueError: It is missing, damaged, foreign, or of a format this version does not know.
    """
    checkpoint = read_pickle(path, legacy=False)
    own = checkpoint.get('dkszoo') if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict) or 'state_dict' not in checkpoint:
        raise ValueError(f'{os.fspath(path)!r} is no training checkpoint of dkszoo')
    if own.get('format') != FORMAT:
        raise ValueError(f'{os.fspath(path)!r} has format {own.get("format")!r}; this version reads {FORMAT}')
    return checkpoint


def save_checkpoint(checkpoint: dict, path: Path) -> None:
    """Durably replace a checkpoint; the new file is read back before the old one goes.

    Raises:
        OSError: It could not be written; the old one is still there.
    """
    try:
        write_durably(path, lambda temporary: torch.save(checkpoint, temporary), check=read_checkpoint)
    except (RuntimeError, ValueError) as error:  # what torch says when the disk is full; or the file read back badly
        raise OSError(f'cannot write {str(path)!r}: {str(error).splitlines()[0]}') from error


def copy_checkpoint(source: Path, target: Path) -> None:
    """Durably replace `target` by a copy of `source`."""
    write_durably(target, lambda temporary: shutil.copyfile(source, temporary), check=read_checkpoint)


def recovery_files(folder: Path) -> list[Path]:
    """The recovery checkpoints in a run folder, newest position first."""
    found = []
    for path in folder.glob('recovery-*.pth.tar'):
        if match := re.fullmatch(r'recovery-(\d+)-(\d+)\.pth\.tar', path.name):
            found.append((int(match[1]), int(match[2]), path))
    return [path for *_, path in sorted(found, reverse=True)]


def newest_checkpoint(folder: Path, report: Callable[[str], None]) -> dict | None:
    """The checkpoint of a run folder that is furthest on; None if there is no file at all.

    Args:
        folder: The run folder.
        report: Told about every file that cannot be used.

    Raises:
        ValueError: There are checkpoints, and none is good.
    """
    candidates = [path for path in (*recovery_files(folder), folder / LAST) if path.exists()]
    good = []
    for path in candidates:
        try:
            good.append(read_checkpoint(path))
        except ValueError as error:
            report(f'passed over: {error}')
    if candidates and not good:
        raise ValueError(f'no checkpoint in {str(folder)!r} can be read (--overwrite starts anew)')
    position = lambda checkpoint: tuple(checkpoint['dkszoo']['progress'][key] for key in ('epoch', 'step'))  # noqa: E731
    return max(good, key=position, default=None)


def state_hash(*states: dict) -> str:
    """A SHA-256 over all tensors of nested state dicts, by key, type, shape and bytes."""
    digest = hashlib.sha256()

    def add(prefix: str, value) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                add(f'{prefix}/{key}', value[key])
        else:
            digest.update(f'{prefix} {value.dtype} {tuple(value.shape)}'.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())

    for i, state in enumerate(states):
        add(str(i), state)
    return digest.hexdigest()
