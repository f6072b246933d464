"""How a grid of runs ends: its final report, or a signal."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dkszoo import engine
from dkszoo.papers.grid import Cell, Result
from dkszoo.weights import write_text

from .main import fail, say_stopped, tell


def until_stopped(work: Callable[[], int]) -> int:
    """Call `work`, which a signal may stop; returns the exit code."""
    try:
        with engine.StopRequest():
            return work()
    except engine.Stopped as error:
        return say_stopped(error, 'the same command')


def finish(cells: Sequence[Cell], results: dict[str, Result], text: str, path: Path) -> int:
    """Print and write the table, report the first failed run (teachers before students), and return the exit code."""
    tell(text)
    try:
        write_text(path, text + '\n')
    except OSError as error:
        return fail(f'cannot write the table: {error} (free some space; the same command writes it)', 1)
    everything = dict.fromkeys(cell for one in cells for cell in (*one.needs, one))
    missing = [cell.name for cell in everything if cell.name not in results]
    if missing:
        failed = f'{len(missing)} of {len(everything)} runs failed, the first is {missing[0]}'
        return fail(f'{failed} (see its .log in {str(path.parent)!r})', 1)
    return 0
