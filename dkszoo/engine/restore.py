"""Restoring a run from a checkpoint."""

import contextlib
from collections.abc import Iterator

from .config import same_setting
from .contents import Progress
from .optim import SETTINGS, load_optimizer, load_schedule
from .rng import set_rng_state
from .setup import Setup

# What torch, NumPy and Python raise for an invalid state.
WRONG_STATE = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


class WrongState(ValueError):
    """A part of a checkpoint is damaged, or of a run with other branches or another optimizer."""


def restore(setup: Setup, checkpoint: dict) -> Progress:
    """Restore a run from a checkpoint; returns its position.

    Args:
        setup: The parts of the run.
        checkpoint: What `read_checkpoint` returned.

    Raises:
        ValueError: It lacks something this run has or has it in another shape, is at a position that this run does not
            reach, or was made by another number of processes.
    """
    task, own, world = setup.task, checkpoint['dkszoo'], setup.world
    if checkpoint['arch'] != setup.config.model:
        raise ValueError(f'it holds a {checkpoint["arch"][:100]}, not a {setup.config.model}')
    if len(own['processes']) != world.size:
        made = len(own['processes'])
        raise ValueError(f'it was made by {made} processes, not {world.size} (torchrun --nproc-per-node {made})')
    process = own['processes'][world.rank]
    progress = Progress(**own['progress'], sums=process['sums'])
    check_place(setup, progress)
    with loading('weights'):
        task.load_checkpoint_state(checkpoint['state_dict'], checkpoint.get('task_state'))
    if task.has_ema():
        if 'state_dict_ema' not in checkpoint:
            raise ValueError('the checkpoint has no averaged weights (it was made without --model-ema)')
        with loading('averaged weights'):
            task.load_checkpoint_state(checkpoint['state_dict_ema'], checkpoint.get('task_state_ema'), ema=True)
    with loading('settings'):
        given = checkpoint['args']
        same = all(same_setting(key, given.get(key, value), value) for key, value in setup.config.fixed().items())
        keep = () if same else (*SETTINGS, *(setup.config.opt_kwargs or {}), *(given.get('opt_kwargs') or {}))
    with loading('optimizer'):
        load_optimizer(setup.optimizer, checkpoint['optimizer'], keep)
    if same and setup.scheduler is not None:  # else the new settings make another schedule
        with loading('scheduler'):
            load_schedule(setup.scheduler, own['scheduler'])
    if setup.scaler is not None and setup.scaler.state_dict_key in checkpoint:
        with loading('loss scale'):
            setup.scaler.load_state_dict(checkpoint[setup.scaler.state_dict_key])
    with loading('random generators'):
        set_rng_state(process['rng'], world.device)
    return progress


def check_place(setup: Setup, progress: Progress) -> None:
    """Raise a ValueError if a run with these settings never reaches the position of the checkpoint."""
    steps, epochs = setup.sampler.steps, setup.config.epochs
    if progress.step > steps:
        raise ValueError(
            f'it is at step {progress.step} of an epoch that has {steps} steps here (give the --batch-size of the file)'
        )
    if progress.step % setup.config.grad_accum_steps and progress.step < steps:
        raise ValueError(
            f'it is at step {progress.step}, amid an update of --grad-accum-steps {setup.config.grad_accum_steps} '
            '(give one that divides it)'
        )
    if progress.epoch > epochs or (progress.epoch == epochs and progress.step):
        raise ValueError(
            f'it is at step {progress.step} of epoch {progress.epoch + 1}, beyond the end at --epochs {epochs} '
            '(give more)'
        )
    if progress.epoch == epochs and progress.best_epoch is None:
        raise ValueError('it is at the end of a run, but has no best epoch')


@contextlib.contextmanager
def loading(part: str) -> Iterator[None]:
    """Name the part of the checkpoint in errors of its loading."""
    try:
        yield
    except WRONG_STATE as error:
        why = f'it has no {error}' if isinstance(error, KeyError) else str(error)
        raise WrongState(f'its {part} cannot be loaded: {why}') from error
