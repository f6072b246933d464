"""Ending a command that was asked to stop."""

import sys
from collections.abc import Callable

from dkszoo import engine


def until_stopped(work: Callable[[], int]) -> int:
    """Do `work` until it is done or a signal stops it; returns the exit code."""
    try:
        with engine.StopRequest():
            return work()
    except engine.Stopped as error:
        return say_stopped(error, 'the same command')


def say_stopped(error: engine.Stopped, again: str) -> int:
    """Say what goes on from where a signal came; returns the exit code."""
    print(f'dkszoo: stopped by {error}; {again} goes on from here', file=sys.stderr)
    return error.exit_code
