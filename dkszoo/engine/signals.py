"""Stopping on request: at SIGTERM, SIGINT or SIGUSR1 a run ends its step and saves; at a second one it ends at once."""

import contextlib
import math
import multiprocessing.resource_tracker
import os
import signal
import time
from collections.abc import Iterable, Iterator

SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, name))
ECHO = 2.0  # seconds in which torchrun or a grid of runs forwards a signal that its children have already received
GRID = 'DKSZOO_GRID'  # environment variable of the runs of a grid


class Stopped(BaseException):
    """The run was asked to stop and has saved what it had; the process should end with `exit_code`.

    Like KeyboardInterrupt not an Exception: it is raised anywhere, and libraries must not handle it as an error.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopRequest:
    """Context in which the first signal raises `Stopped`, or within `deferred` is recorded in `signum`.

    A second signal ends the process.
    """

    def __init__(self):
        self.signum: int | None = None
        self.noted_at = 0.0
        self.waits = False
        self.previous: dict = {}

    def _note(self, signum: int, frame) -> None:
        if self.signum is not None:
            forwarded = GRID in os.environ or int(os.environ.get('WORLD_SIZE', 1)) > 1
            if not forwarded or time.monotonic() - self.noted_at > ECHO:
                os._exit(128 + signum)
            self.noted_at = min(self.noted_at, time.monotonic())
            return
        self.signum, self.noted_at = signum, time.monotonic()
        if not self.waits:
            raise Stopped(signum)

    def learn(self, signum: int) -> None:
        """Record a signal that came to another process; to this one it may still come, at any time."""
        if self.signum is None:
            self.noted_at = math.inf
        self.signum = signum

    def __enter__(self) -> 'StopRequest':
        for signum in SIGNALS:
            self.previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error) -> None:
        self.waits = True  # a signal that arrives now is too late
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Context in which a signal is only recorded, for `check` to raise: something must be saved first."""
        self.waits = True
        self.check()
        try:
            yield
        finally:
            self.waits = False
        self.check()

    def check(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.signum is not None:
            raise Stopped(self.signum)


@contextlib.contextmanager
def hidden_signals() -> Iterator[None]:
    """Context in which started processes never receive the signals; this process receives them on leaving.

    Otherwise a signal to the whole process group would kill loading processes that the main one needs to end its step.
    """
    if not hasattr(signal, 'pthread_sigmask'):  # Windows
        yield
        return
    if multiprocessing.get_start_method() != 'fork':
        multiprocessing.set_forkserver_preload(['__main__', 'dkszoo'])  # else each loading process imports torch anew
        multiprocessing.resource_tracker.ensure_running()  # its start, before Python 3.14, lets two signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def batches_of(loader: Iterable) -> Iterator[Iterator]:
    """The batches of a loader whose processes receive no signals; after an error they are shut down."""
    before, batches = multiprocessing.active_children(), None
    try:
        with hidden_signals():  # raises on leaving if a signal has come
            batches = iter(loader)
        yield batches
    except BaseException:
        shut_down(batches)
        if batches is None:  # one of its processes could not be started
            for process in set(multiprocessing.active_children()) - set(before):
                process.kill()
        raise


@contextlib.contextmanager
def closing_processes(loader: Iterable) -> Iterator[None]:
    """Context of several epochs; on leaving, the loader's processes, which else wait for another, are shut down."""
    try:
        yield
    finally:
        shut_down(getattr(loader, '_iterator', None))


def shut_down(batches: Iterator | None) -> None:
    """End the processes of a DataLoader's iterator: Python would wait for them at exit, and they block SIGTERM."""
    getattr(batches, '_shutdown_workers', lambda: None)()
    for process in getattr(batches, '_workers', ()):
        process.kill()  # if it is stuck; torch waits for five seconds
