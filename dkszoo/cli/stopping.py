"""Ending a command that a signal stops."""

import sys
from collections.abc import Callable

from dkszoo import engine

from .main import tell


def until_stopped(work: Callable[[], int]) -> int:
    """Call `work`, which a signal may stop; returns the exit code."""
    try:
        with engine.StopRequest():
            return work()
    except engine.Stopped as error:
        return say_stopped(error, 'the same command')


def say_stopped(error: engine.Stopped, again: str) -> int:
    """Print how to resume after a signal, with the command `again`; returns the exit code."""
    tell(f'dkszoo: stopped by {error}; {again} resumes from here', sys.stderr)
    return error.exit_code
