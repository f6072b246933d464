"""Ending a command that was asked to stop."""

import sys
from collections.abc import Callable

from dkszoo import engine


def until_stopped(
    work: Callable[[engine.StopRequest], int], again: Callable[[], str] = lambda: 'the same command'
) -> int:
    """Do `work`; when a signal stops it, say that what `again` gives goes on. Returns the exit code."""
    try:
        with engine.StopRequest() as stop:
            return work(stop)
    except engine.Stopped as error:
        print(f'dkszoo: stopped by {error}; {again()} goes on from here', file=sys.stderr)
        return error.exit_code
