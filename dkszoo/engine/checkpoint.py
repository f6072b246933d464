"""Training checkpoints: timm's keys, and under 'dkszoo' what an exact resume needs. Plain data only."""

import filecmp
import hashlib
import os
import re
import reprlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

import dkszoo
from dkszoo.weights import first_line, name_and_arguments, read_pickle, write_durably

from .contents import Progress, check_contents
from .rng import rng_state
from .setup import Setup, model_arguments

FORMAT = 1
LAST, BEST = 'last.pth.tar', 'model_best.pth.tar'


def describe_model(setup: Setup) -> dict:
    """What is needed to rebuild the network and to prepare its images; an export copies it."""
    config, net = setup.config, setup.task.get_net()
    arch, arguments = name_and_arguments(config.model, model_arguments(config), net.backbone)
    return {
        'arch': arch,
        'model_args': arguments,
        'design': net.design,
        'taps': list(net.taps),
        'method': config.method,
        'class_names': setup.data.classes,
        'dataset': config.dataset,
        'evaluation': {'batch_size': config.validation_batch_size, 'channels_last': bool(config.channels_last)},
        'data': {
            'input_size': [config.in_chans, config.img_size, config.img_size],
            'mean': list(config.mean),
            'std': list(config.std),
            'interpolation': config.interpolation,
            'crop_pct': config.crop_pct,
            'crop_mode': config.crop_mode,
        },
    }


def capture(setup: Setup, progress: Progress, metric: float | None = None) -> dict:
    """All state of a run, as one checkpoint. All processes must call it: each has its own generators and sums."""
    config, task = setup.config, setup.task
    common = dict(vars(progress))
    own = {'rng': rng_state(setup.world.device), 'sums': common.pop('sums')}
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
            'progress': common,
            'processes': setup.world.gather(own),
            'scheduler': setup.scheduler.state_dict() if setup.scheduler is not None else None,
        },
    }
    if setup.scaler is not None:
        state[setup.scaler.state_dict_key] = setup.scaler.state_dict()
    if metric is not None:
        state['metric'] = metric
    return state


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a training checkpoint of dkszoo.

    Raises:
        ValueError: It is missing, damaged, foreign, or of a format this version does not know.
    """
    checkpoint = read_pickle(path, legacy=False)
    own = checkpoint.get('dkszoo') if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict) or 'state_dict' not in checkpoint:
        raise ValueError(
            f'{os.fspath(path)!r} is no training checkpoint of dkszoo (--initial-checkpoint takes weights)'
        )
    made = own.get('format')
    if type(made) is not int or made != FORMAT:
        # reprlib: the whole text of nested lists that share items could fill the memory
        raise ValueError(f'{os.fspath(path)!r} has format {reprlib.repr(made)[:50]}; this version reads {FORMAT}')
    try:
        check_contents(checkpoint)
    except ValueError as error:
        raise ValueError(f'{os.fspath(path)!r} is damaged: {error} (take another checkpoint)') from error
    return checkpoint


def save_checkpoint(checkpoint: dict, path: Path) -> None:
    """Durably replace a checkpoint; the new file is read back before the old one is replaced.

    Raises:
        OSError: It could not be written; the old one is unchanged.
    """

    def write(temporary: Path) -> None:
        with open(temporary, 'wb') as file:  # opened here: torch's writer hides why it failed
            torch.save(checkpoint, file)

    replace_checkpoint(path, write, read_checkpoint)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Durably replace `target` with a copy of a good `source`; the copy is compared before the old file is replaced.

    Raises:
        OSError: It could not be written; the old file is unchanged.
    """

    def compare(temporary: Path) -> None:
        if not filecmp.cmp(source, temporary, shallow=False):
            raise OSError(f'the copy differs from {str(source)!r}')

    replace_checkpoint(target, lambda temporary: shutil.copyfile(source, temporary), compare)


def replace_checkpoint(path: Path, write: Callable[[Path], object], check: Callable[[Path], object]) -> None:
    try:
        write_durably(path, write, check)
    except (OSError, RuntimeError, ValueError) as error:
        if 'DataLoader worker' in str(error):  # torch says so in whatever it interrupts
            raise
        failed = OSError(f'cannot write {str(path)!r}: {reason(error)}')
        failed.errno = getattr(system_error(error), 'errno', None)
        raise failed from error


def reason(error: BaseException) -> str:
    """The cause of a failed write, in one line."""
    return getattr(system_error(error), 'strerror', None) or first_line(error)


def system_error(error: BaseException | None) -> OSError | None:
    """The system's error, which torch's writer wraps in its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def recovery_files(folder: Path) -> list[Path]:
    """The recovery checkpoints in a run folder, newest position first."""
    found = []
    for path in folder.glob('recovery-*.pth.tar'):
        if match := re.fullmatch(r'recovery-(\d+)-(\d+)\.pth\.tar', path.name):
            found.append((int(match[1]), int(match[2]), path))
    return [path for *_, path in sorted(found, reverse=True)]


def newest_checkpoint(folder: Path, report: Callable[[str], None]) -> tuple[Path, dict] | None:
    """The most advanced checkpoint of a run folder, and its path; None if there are no files.

    `model_best`, which is a whole checkpoint too, is used only if no other is good.

    Args:
        folder: The run folder.
        report: Called with a message for every file that cannot be used.

    Raises:
        ValueError: There are checkpoints, but none is good.
    """

    def first_good(*paths: Path) -> list[tuple[Path, dict]]:
        for path in paths:
            try:
                return [(path, read_checkpoint(path))]
            except ValueError as error:
                report(f'skipped: {error}')
        return []

    recovery = recovery_files(folder)
    last, best = [[path] if path.exists() else [] for path in (folder / LAST, folder / BEST)]
    good = [*first_good(*recovery), *first_good(*last)] or first_good(*best)
    if not good and (recovery or last or best):
        raise ValueError(f'no checkpoint in {str(folder)!r} can be read (--overwrite starts anew)')
    return max(good, key=lambda found: position(found[1]), default=None)


def position(checkpoint: dict) -> tuple[int, int]:
    """Epoch and step at which a checkpoint was made."""
    progress = checkpoint['dkszoo']['progress']
    return progress['epoch'], progress['step']


def state_hash(*states: dict) -> str:
    """The SHA-256 of all tensors of nested state dicts, by key, type, shape and bytes."""
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
