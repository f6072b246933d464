"""What a person watching a run sees: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time

from tqdm import tqdm

_logger = logging.getLogger(__name__)


class ProgressBar:
    """One epoch's bar, or a log line every `interval` steps where stderr is no terminal.

    Args:
        epoch: The epoch under way.
        epochs: Epochs in all.
        steps: Steps of one epoch.
        start: Steps that are done already.
        batch_size: Images a step, all processes together.
        interval: Steps between updates.
        show: Nothing is shown if False (all processes but the first).
    """

    def __init__(self, epoch: int, epochs: int, steps: int, start: int, batch_size: int, interval: int, show: bool):
        self.epoch, self.epochs, self.steps, self.start = epoch, epochs, steps, start
        self.batch_size, self.interval, self.show = batch_size, interval, show
        self.began = time.monotonic()
        self.bar = None
        if show and sys.stderr.isatty():
            title = f'epoch {epoch + 1}/{epochs}'
            form = '{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}'  # the time left is the run's, not the epoch's
            self.bar = tqdm(total=steps, initial=start, desc=title, leave=False, dynamic_ncols=True, bar_format=form)

    def due(self, step: int) -> bool:
        """Whether `update` would show anything after this step; figures need not be fetched otherwise."""
        return self.show and (step % self.interval == 0 or (self.bar is not None and step % 10 == 0))

    def update(self, step: int, loss: float, top1: float) -> None:
        """Show where the run is: mean loss and accuracy of the epoch so far, images a second, time left."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = (step - self.start) / seconds
        speed = rate * self.batch_size
        left = tqdm.format_interval(round((self.steps - step + self.steps * (self.epochs - self.epoch - 1)) / rate))
        if self.bar is not None:
            figures = f'loss {loss:.3f}, top1 {top1:.1f} %, {speed:.0f} img/s, {left} left'
            self.bar.set_postfix_str(figures, refresh=False)
            self.bar.update(step - self.bar.n)
        else:
            _logger.info(
                'epoch %d/%d step %d/%d loss %.3f top1 %.1f %% %.0f img/s %s left',
                *(self.epoch + 1, self.epochs, step, self.steps, loss, top1, speed, left),
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def report_epoch(row: dict, is_best: bool) -> None:
    """One line on a finished epoch, from its row (epoch, lr, train, eval)."""
    figures = row['eval']
    heads = ' '.join(f'{k} {v:.2f}' for k, v in figures.items() if k.endswith('top1'))
    mark = ' *' if is_best else ''
    _logger.info('epoch %d: train loss %.4f, %s%s', row['epoch'] + 1, row['train']['loss'], heads, mark)
