"""What a run displays: a progress bar on a terminal, log lines elsewhere."""

import logging
import os
import sys
import time
from typing import TextIO

from tqdm import tqdm

_logger = logging.getLogger(__name__)


class ProgressBar:
    """The bar of one epoch, or a log line every `interval` steps if stderr is not a terminal with a size.

    Args:
        epoch: The current epoch, from 0.
        epochs: Total number of epochs.
        steps: Steps per epoch.
        start: Steps that are already done.
        batch_size: Images per step, over all processes.
        interval: Steps between log lines; the bar is updated every 10 steps too.
        show: False in all processes but the first: nothing is shown.
    """

    def __init__(self, epoch: int, epochs: int, steps: int, start: int, batch_size: int, interval: int, show: bool):
        self.epoch, self.epochs, self.steps, self.start = epoch, epochs, steps, start
        self.batch_size, self.interval, self.show = batch_size, interval, show
        self.began = time.monotonic()
        self.bar = None
        if show and has_size(sys.stderr):
            title = f'epoch {epoch + 1}/{epochs}'
            form = '{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}'  # the time left is the run's, not the epoch's
            self.bar = tqdm(total=steps, initial=start, desc=title, leave=False, dynamic_ncols=True, bar_format=form)

    def due(self, step: int) -> bool:
        """Whether to call `update` after this step; otherwise the figures need not be fetched."""
        return self.show and (step % self.interval == 0 or (self.bar is not None and step % 10 == 0))

    def update(self, step: int, loss: float, top1: float) -> None:
        """Show mean loss and accuracy of the epoch so far, images per second and the time left of the run."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = (step - self.start) / seconds
        left = tqdm.format_interval(round((self.steps - step + self.steps * (self.epochs - self.epoch - 1)) / rate))
        figures = f'loss {loss:.3f}, top1 {top1:.1f} %, {rate * self.batch_size:.0f} img/s, {left} left'
        if self.bar is not None:
            self.bar.set_postfix_str(figures, refresh=False)
            self.bar.update(step - self.bar.n)
        else:
            place = f'epoch {self.epoch + 1}/{self.epochs} step {step}/{self.steps}'
            _logger.info('%s %s', place, figures.replace(',', ''))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def has_size(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that has a size: in one of 0 by 0, as some programs open them, no bar appears."""
    try:
        return bool(stream) and stream.isatty() and all(os.get_terminal_size(stream.fileno()))  # None: closed
    except OSError:
        return False


def report_epoch(row: dict, is_best: bool) -> None:
    """Log one line on a finished epoch, from its row (epoch, lr, train, eval)."""
    figures = row['eval']
    heads = ' '.join(f'{k} {v:.2f}' for k, v in figures.items() if k.endswith('top1'))
    mark = ' *' if is_best else ''
    _logger.info('epoch %d: train loss %.4f, %s%s', row['epoch'] + 1, row['train']['loss'], heads, mark)
