"""Breaking runs at chosen steps."""

import os
import signal

import pytest

from benchmarks.reliability.runs import import_all
from dkszoo.engine.step import Stepper


@pytest.fixture(scope='session', autouse=True)
def _imports():
    import_all()


@pytest.fixture
def at_step(monkeypatch):
    """`at_step(n, action)` calls `action(stepper, result)` once, before the loss of the n-th step is looked at."""

    def arrange(number: int, action) -> None:
        plain, calls = Stepper.check_finite, []

        def wrapped(self, result, step):
            calls.append(None)
            if len(calls) == number:
                action(self, result)
            return plain(self, result, step)

        monkeypatch.setattr(Stepper, 'check_finite', wrapped)

    return arrange


@pytest.fixture
def stop_at_step(at_step):
    """`stop_at_step(n)` sends SIGTERM in the n-th step."""
    return lambda number: at_step(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
