"""When a run saves what, and what it goes on from."""

import logging
import time

import torch

from dkszoo.weights import load_strictly

from .checkpoint import (
    BEST,
    LAST,
    Progress,
    capture,
    copy_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    recovery_files,
    restore,
    save_checkpoint,
)
from .folder import RunFolder
from .setup import Setup

_logger = logging.getLogger(__name__)

MINUTE = 60.0


class Keeper:
    """Saves and restores a run; only the first process writes.

    Args:
        setup: What the run is made of.
        folder: Where its files are.
    """

    def __init__(self, setup: Setup, folder: RunFolder):
        self.setup, self.folder = setup, folder
        self.saved_at = time.monotonic()

    def resume(self) -> Progress:
        """Restore the newest good checkpoint of the folder, else the one of --resume, else start at the beginning.

        Raises:
            ValueError: No checkpoint in the folder is good, or the file does not fit this run.
        """
        config = self.setup.config
        checkpoint = newest_checkpoint(self.folder.path, lambda text: _logger.warning('%s', text))
        if checkpoint is None and config.resume:
            checkpoint = read_checkpoint(config.resume)
        if checkpoint is None:
            return Progress()
        try:
            progress = restore(self.setup, checkpoint)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f'the checkpoint to go on from does not fit this run: {error}') from error
        if self.setup.world.is_main:
            self.folder.write_summary(progress.history)
            self.folder.trim_log(progress.epoch)
        _logger.info('resumed at epoch %d, step %d', progress.epoch + 1, progress.step)
        return progress

    def recovery_due(self, progress: Progress) -> bool:
        """Whether it is time for a recovery checkpoint; by the clock, about one a minute, if no interval is set."""
        interval = self.setup.config.recovery_interval
        if interval:
            return progress.step % interval == 0
        return time.monotonic() - self.saved_at > MINUTE

    def save_recovery(self, progress: Progress) -> None:
        """Write a recovery checkpoint of this very position; the newest two are kept."""
        if self.setup.world.is_main:
            path = self.folder.path / f'recovery-{progress.epoch}-{progress.step}.pth.tar'
            save_checkpoint(capture(self.setup, progress), path)
            for old in recovery_files(self.folder.path)[2:]:
                old.unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    def save_epoch(self, progress: Progress, metric: float, better: bool) -> None:
        """Write `last`, and `model_best` if it is better, at the end of an epoch; recovery files are done with."""
        if self.setup.world.is_main:
            checkpoint = capture(self.setup, progress, metric)
            checkpoint['epoch'] = progress.epoch - 1  # timm's count: the epoch that is done
            last, best = self.folder.path / LAST, self.folder.path / BEST
            self.folder.write_summary(progress.history)
            if better:  # before `last`: a run killed in between does this epoch again and writes the same best
                save_checkpoint(checkpoint, best)
                copy_checkpoint(best, last)
            else:
                save_checkpoint(checkpoint, last)
            for old in recovery_files(self.folder.path):
                old.unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    @torch.no_grad()
    def load_weights(self, name: str) -> None:
        """Put the weights of 'last' or 'best' into the network that is evaluated, averaged ones if there are any."""
        task, ema = self.setup.task, self.setup.config.model_ema
        path = self.folder.path / {'last': LAST, 'best': BEST}[name]
        checkpoint, suffix = read_checkpoint(path), '_ema' if ema else ''
        load_strictly(task.get_eval_model(ema=ema), checkpoint[f'state_dict{suffix}'], str(path))
        task.load_task_state(checkpoint.get(f'task_state{suffix}'), ema=ema)
