"""Stopping when asked to: SIGTERM, SIGINT and SIGUSR1 end the step and save; a second one ends at once."""

import os
import signal

SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, name))


class Stopped(Exception):
    """The run was asked to stop and has saved what it had; the process should end with `exit_code`."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopRequest:
    """While it is entered, notes the first signal in `signum`; at the second the process ends."""

    def __init__(self):
        self.signum: int | None = None
        self.previous: dict = {}

    def _note(self, signum: int, frame) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum

    def __enter__(self) -> 'StopRequest':
        for signum in SIGNALS:
            self.previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.signum is not None:
            raise Stopped(self.signum)
