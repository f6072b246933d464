"""What a person watching a run sees: the line in the log, and curves.png."""

import io
import pty
import sys
import termios

import pytest
from matplotlib.axes import Axes

from dkszoo.engine import progress
from dkszoo.engine.curves import draw_curves


def test_the_time_that_is_left(caplog, monkeypatch):
    """Four steps took eight seconds; four of this epoch and ten of the next are left."""
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    bar = progress.ProgressBar(epoch=1, epochs=3, steps=10, start=2, batch_size=4, interval=5, show=True)
    now[0] = 8.0
    with caplog.at_level('INFO'):
        bar.update(6, 1.0, 50.0)
    assert caplog.messages == ['epoch 2/3 step 6/10 loss 1.000 top1 50.0 % 2 img/s 00:28 left']


def test_no_bar_where_stderr_is_closed(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', None)
    assert progress.ProgressBar(epoch=0, epochs=1, steps=1, start=0, batch_size=4, interval=1, show=True).bar is None


@pytest.mark.parametrize(('rows', 'columns'), [(24, 80), (0, 0), (24, 0)])
def test_a_bar_needs_a_terminal_that_has_a_size(monkeypatch, rows, columns):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, columns))
    with open(theirs, 'w') as terminal, open(ours):
        monkeypatch.setattr(sys, 'stderr', terminal)
        bar = progress.ProgressBar(epoch=0, epochs=1, steps=1, start=0, batch_size=4, interval=1, show=True)
        assert (bar.bar is not None) == bool(rows and columns)
        bar.close()


def test_a_bar_stands_where_the_step_does():
    bar = progress.ProgressBar(epoch=0, epochs=1, steps=30, start=5, batch_size=4, interval=50, show=True)
    bar.bar = progress.tqdm(total=30, initial=5, file=io.StringIO())
    for step in (10, 20):
        bar.update(step, 1.0, 50.0)
        assert bar.bar.n == step


def test_the_line_of_an_epoch(caplog):
    row = {'epoch': 2, 'train': {'loss': 0.5}, 'eval': {'loss': 1.0, 'top1': 81.234, 'branch0_top1': 70.0}}
    with caplog.at_level('INFO'):
        for is_best in (False, True):
            progress.report_epoch(row, is_best)
    line = 'epoch 3: train loss 0.5000, top1 81.23 branch0_top1 70.00'
    assert caplog.messages == [line, f'{line} *']


def test_one_process_alone_says_how_far_it_is():
    bars = [
        progress.ProgressBar(epoch=0, epochs=1, steps=9, start=0, batch_size=4, interval=5, show=s)
        for s in (True, False)
    ]
    assert [[bar.due(step) for step in (4, 5)] for bar in bars] == [[False, True], [False, False]]


def test_curves_show_the_errors_of_all_heads(tmp_path, monkeypatch):
    drawn, marked, plain = {}, [], Axes.plot

    def plot(self, x, y, label, **style):
        drawn[label] = x, y
        return plain(self, x, y, label=label, **style)

    monkeypatch.setattr(Axes, 'plot', plot)
    monkeypatch.setattr(Axes, 'axvline', lambda axes, x, **_: marked.append(x))
    history = [
        {'epoch': i, 'train': {'top1': 60.0 + i, 'branch0_top1': 50.0}, 'eval': {'top1': 70.0, 'test_top1': 65.0}}
        for i in range(2)
    ]
    draw_curves(history, tmp_path / 'curves.png', 'a run on my $a_$ data', 1)
    assert marked == [2]
    assert drawn == {
        'main head, training': ((1, 2), (40.0, 39.0)),
        'main head, validation': ((1, 2), (30.0, 30.0)),
        'main head, test': ((1, 2), (35.0, 35.0)),
        'branch 0, training': ((1, 2), (50.0, 50.0)),
    }


def test_a_picture_that_cannot_be_drawn_costs_no_result(tmp_path, caplog):
    """Its title is a folder's name, which need not be a text."""
    history = [{'epoch': 0, 'train': {'top1': 60.0}, 'eval': {}}]
    draw_curves(history, tmp_path / 'curves.png', 'on M\udcfcller', 0)
    assert 'no curves.png: ' in caplog.text
    assert not list(tmp_path.iterdir())
