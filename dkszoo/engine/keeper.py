"""What a run saves and when, and what it resumes from."""

import logging
import time
from pathlib import Path

import torch
from timm.utils import unwrap_model

from dkszoo.weights import load_strictly

from .checkpoint import (
    BEST,
    LAST,
    capture,
    copy_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    recovery_files,
    save_checkpoint,
)
from .config import flag, same_setting
from .contents import Progress
from .folder import RunFolder
from .restore import WrongState, restore
from .setup import Setup

_logger = logging.getLogger(__name__)

MINUTE = 60.0
SPARING = 20.0  # at least so many times as long between recovery checkpoints as the last one took
OTHER_PARTS = (
    'give the --method, --branches, --opt, --filter-bias-and-bn, --layer-decay, --branch-lr-scale and '
    '--branch-warmup-epochs of the file, or --initial-checkpoint for its weights alone'
)
JUDGED_ON = ('dataset', 'val_split', 'best_on')  # the images that the best epoch is chosen on


class RunFailed(Exception):
    """The run ended because one of its own checks failed."""


class Keeper:
    """Saves and restores a run. Every process calls it; only the first one writes.

    Args:
        setup: The parts of the run.
        folder: The folder of its files.
    """

    def __init__(self, setup: Setup, folder: RunFolder):
        self.setup, self.folder = setup, folder
        self.last, self.best = folder.path / LAST, folder.path / BEST
        self.saved_at, self.saved_step, self.pause = time.monotonic(), 0, MINUTE
        self.source: Path | None = None

    # -- resuming --------------------------------------------------------------------------------------------------

    def resume(self) -> Progress:
        """Restore the newest good checkpoint of the folder, else that of --resume, else start from the beginning.

        With --overwrite, those of the folder are ignored. Nothing is written.

        Raises:
            ValueError: No checkpoint in the folder is good, or the file does not fit this run.
        """
        config = self.setup.config
        found = None if config.overwrite else newest_checkpoint(self.folder.path, self.warn)
        in_folder = found is not None
        if found is None and config.resume:
            found = Path(config.resume), read_checkpoint(config.resume)
        if found is None:
            return Progress()
        self.source, checkpoint = found
        try:
            progress = restore(self.setup, checkpoint)
        except ValueError as error:
            reason = ' '.join(str(error).split())[:300]  # torch lists every key
            if not reason.endswith(')'):  # it has no advice yet
                other = OTHER_PARTS if isinstance(error, WrongState) else 'give --resume another checkpoint'
                reason += f' ({"--overwrite starts anew" if in_folder else other})'
            raise ValueError(f'cannot resume from {str(self.source)!r}: {reason}') from error
        keys = JUDGED_ON if config.dataset else (*JUDGED_ON, 'data_dir')
        before, asked = {**config.to_dict(), **checkpoint['args']}, config.to_dict()
        judged = [key for key in keys if not same_setting(key, before[key], asked[key])]
        if judged and progress.best_epoch is not None and progress.epoch < config.epochs:
            self.warn(f'the best epoch so far no longer counts: it was chosen with another {flag(judged[0])}')
            progress.best_epoch = progress.best_metric = None
        self.saved_step = progress.step
        if self.setup.world.is_main:
            done = progress.epoch == config.epochs
            place = 'after the last epoch' if done else f'at epoch {progress.epoch + 1}, step {progress.step}'
            _logger.info('resumed %s from %s', place, self.source)
        return progress

    def warn(self, text: str) -> None:
        if self.setup.world.is_main:
            _logger.warning('%s', text)

    def settle(self, progress: Progress) -> None:
        """Make the folder what it would be had the run reached `progress` without a break (first process only)."""
        if self.source is not None:
            place = self.last if progress.step == 0 else self.recovery_path(progress)
            if self.source not in (self.last, *recovery_files(self.folder.path)):
                copy_checkpoint(self.source, place)
                self.source = place
            for path in recovery_files(self.folder.path):
                if path == self.source:
                    break
                path.unlink()  # further on than what we resume from, so damaged; or older than `last`
            self.mend_best(progress)
        self.folder.write_summary(progress.history)
        self.folder.trim_log(progress.epoch)

    def mend_best(self, progress: Progress) -> None:
        """Ensure that `model_best` is of the best epoch: a crash may have prevented its writing, or it is damaged.

        If its weights are lost, the last epoch stands in, or else the best is chosen among the epochs to come.
        """
        if progress.best_epoch is None:
            return
        try:
            if read_checkpoint(self.best)['epoch'] == progress.best_epoch:
                return
            why = f'not in {BEST}'
        except ValueError as error:
            why = str(error)
        metric = read_checkpoint(self.last).get('metric') if self.source.name == LAST else None
        at_boundary, done = metric is not None, progress.epoch - 1
        if not at_boundary or progress.best_epoch != done:
            instead = f'epoch {done + 1} stands in' if at_boundary else 'the best is chosen among those to come'
            self.warn(f'the weights of the best epoch, {progress.best_epoch + 1}, are lost: {why}; {instead}')
        progress.best_epoch = progress.best_metric = None
        if at_boundary:
            copy_checkpoint(self.last, self.best)
            progress.best_epoch, progress.best_metric = done, metric

    # -- saving ----------------------------------------------------------------------------------------------------

    def recovery_path(self, progress: Progress) -> Path:
        return self.folder.path / f'recovery-{progress.epoch}-{progress.step}.pth.tar'

    def recovery_due(self, progress: Progress) -> bool:
        """Whether a recovery checkpoint is due: after --recovery-interval steps, or by time if it is 0.

        By time, only the first process says so: it knows how long writing takes.
        """
        interval = self.setup.config.recovery_interval
        if interval:
            return progress.step - self.saved_step >= interval
        return self.setup.world.is_main and time.monotonic() - self.saved_at > self.pause

    @torch.no_grad()
    def is_sound(self) -> bool:
        """Whether all parameters are finite."""
        parameters = unwrap_model(self.setup.task.get_trainable_module()).parameters()
        return bool(torch.stack([torch.isfinite(p).all() for p in parameters]).all())

    def check_sound(self, progress: Progress) -> None:
        """Ensure that broken weights are never saved: the newest good checkpoint would be useless.

        Raises:
            RunFailed: A parameter is not finite.
        """
        if not self.is_sound():
            raise RunFailed(
                f'epoch {progress.epoch + 1}, step {progress.step}: the weights are no longer finite and were not '
                'saved (start again with a lower --lr)'
            )

    def save_recovery(self, progress: Progress) -> None:
        """Write a recovery checkpoint of this position; the newest two are kept."""
        self.check_sound(progress)
        began = time.monotonic()
        checkpoint = capture(self.setup, progress)
        if self.setup.world.is_main:
            save_checkpoint(checkpoint, self.recovery_path(progress))
            for old in recovery_files(self.folder.path)[2:]:
                old.unlink(missing_ok=True)
        self.saved_at, self.saved_step = time.monotonic(), progress.step
        self.pause = max(MINUTE, SPARING * (self.saved_at - began))

    def save_epoch(self, progress: Progress, metric: float, better: bool) -> None:
        """At the end of an epoch write `last`, and `model_best` if it is better; delete the recovery files."""
        self.check_sound(progress)
        checkpoint = capture(self.setup, progress, metric)
        checkpoint['epoch'] = progress.epoch - 1  # timm's count: the epoch that is done
        if self.setup.world.is_main:
            self.folder.write_summary(progress.history)
            save_checkpoint(checkpoint, self.last)
            if better:  # after `last`: if a crash comes in between, `mend_best` can restore it from there
                copy_checkpoint(self.last, self.best)
            for old in recovery_files(self.folder.path):
                old.unlink(missing_ok=True)
        self.saved_at, self.saved_step = time.monotonic(), 0

    # -- testing ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def load_weights(self, name: str) -> None:
        """Load the weights of 'last' or 'best', averaged if there are any, into the network that is evaluated."""
        task, ema = self.setup.task, self.setup.config.model_ema
        path = {'last': self.last, 'best': self.best}[name]
        checkpoint, suffix = read_checkpoint(path), '_ema' if ema else ''
        load_strictly(task.get_eval_model(ema=ema), checkpoint[f'state_dict{suffix}'], str(path))
        task.load_task_state(checkpoint.get(f'task_state{suffix}'), ema=ema)
