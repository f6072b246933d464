"""A grid of ordinary `train.py` runs, resumable because every run is."""

import concurrent.futures
import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dkszoo.data import open_dataset
from dkszoo.engine.checkpoint import BEST
from dkszoo.engine.config import FILLED_IN, TrainConfig, check_setting, flag, negation
from dkszoo.engine.contents import is_finite
from dkszoo.engine.create import WRONG_ARGUMENTS, check_name, create_model, read_design
from dkszoo.engine.lock import wait_until_free
from dkszoo.engine.record import FILES, hash_of, read_record
from dkszoo.weights import fit_channels, parse_json

from .processes import Processes


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: Its run folder within the grid's folder.
        settings: The settings that determine the result, by the names of `TrainConfig`.
        needs: Cells that must be finished first (teachers).
    """

    name: str
    settings: dict = field(hash=False)
    needs: tuple['Cell', ...] = ()

    def command(self, output: Path) -> list[str]:
        """The arguments of train.py; a teacher's checkpoint is that of its own run."""
        settings = dict(self.settings)
        if self.needs:
            settings['kd_checkpoint'] = str(output / self.needs[0].name / BEST)
        return to_flags({**settings, 'output': str(output), 'experiment': self.name})


@dataclass(frozen=True)
class Result:
    """The result of a finished run.

    Attributes:
        record: Contents of its run.json.
        seconds: Time of training and evaluation, summed over the epochs.
        folder: Its run folder.
    """

    record: dict
    seconds: float
    folder: Path

    def metric(self, name: str, which: str) -> float:
        """A test figure in percent: 'top1', 'top1_err' (100 - top1), 'branch0_top1', ... of 'last' or 'best'.

        Raises:
            ValueError: The run has no such figure.
        """
        if name.endswith('_err'):
            return 100 - self.metric(name.removesuffix('_err'), which)
        figures = self.record['result'][which]
        if name not in figures:
            raise ValueError(f'{str(self.folder / "run.json")!r} has no {name} of {which!r} ({again(self.folder)})')
        return figures[name]


def to_flags(settings: dict) -> list[str]:
    """Settings as command-line flags."""
    flags = []
    for name, value in settings.items():
        if value is None:
            continue
        if isinstance(value, bool):
            flags.append(flag(name) if value else negation(name))
        elif name == 'branches' and isinstance(value, dict):
            flags += [flag(name), json.dumps(value)]
        elif isinstance(value, dict):
            flags += [flag(name), *(f'{key}={json.dumps(v)}' for key, v in value.items())]
        elif isinstance(value, list | tuple):
            rows = [','.join(map(str, row)) if isinstance(row, list | tuple) else str(row) for row in value]
            text = (';' if value and isinstance(value[0], list | tuple) else ',').join(rows)
            flags += [f'{flag(name)}={text}']
        else:
            text = str(value)
            flags += [f'{flag(name)}={text}'] if text.startswith('-') else [flag(name), text]
    return flags


def read_result(folder: Path) -> Result | None:
    """The result of a run folder, or None if the run is not finished.

    Raises:
        ValueError: run.json or log.jsonl is damaged.
    """
    path = folder / 'run.json'
    record = read_record(path, again(folder)) if path.is_file() else {}
    if 'result' not in record:
        return None
    return Result(record, read_seconds(folder / 'log.jsonl'), folder)


def again(folder: Path) -> str:
    """Advice on a damaged run of a grid."""
    return f'delete {str(folder)!r} to have it run again'


def read_seconds(path: Path) -> float:
    """Sum of the times in a log.jsonl.

    Raises:
        ValueError: It is missing, or a line is not that of an epoch.
    """
    total, advice = 0.0, again(path.parent)
    try:
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            entry = parse_json(line)
            seconds = entry.get('seconds') if isinstance(entry, dict) else None
            if not isinstance(seconds, dict) or not all(is_finite(s) and s >= 0 for s in seconds.values()):
                raise ValueError(f'line {number} has no seconds')
            total += sum(seconds.values())
    except (OSError, ValueError) as error:
        raise ValueError(f'cannot read {str(path)!r}: {error} ({advice})') from error
    if not 0 < total < math.inf:
        raise ValueError(f'{str(path)!r} does not say how long the run took ({advice})')
    return total


def check_settings(cell: Cell, folder: Path, hash_file: Callable[[str], str | None] = hash_of) -> bool:
    """Whether the run of a cell is finished; `hash_file` gives the SHA-256 of a file, None if there is none.

    Raises:
        ValueError: The finished run has settings other than the cell's, or another file by the same name.
    """
    result = read_result(folder)
    if result is None:  # train.py checks unfinished runs itself
        return False
    default = TrainConfig().to_dict()
    asked, stored = TrainConfig.from_dict(cell.settings).fixed(), {**default, **result.record['settings']}
    asked['branches'] = read_design(asked['branches'])
    for key in ('mean', 'std'):
        asked[key] = asked[key] and list(fit_channels(asked[key], len(stored[key] or asked[key])))
    given = {word.partition('=')[0] for word in result.record.get('argv', ())}  # not filled in by train.py
    own = {key for key in FILLED_IN if key in cell.settings or flag(key) not in given}
    filled_in = {key for key in own if asked[key] == default[key]} | ({'kd_checkpoint'} if cell.needs else set())
    for key, value in asked.items():
        if key not in filled_in:
            check_setting(folder, key, stored[key], value, '--output names another folder')
    for key in FILES:
        before, now = result.record.get(f'{key}_sha256'), hash_file(cell.settings.get(key, ''))
        if before and now and before != now:
            raise ValueError(
                f'{str(folder)!r} holds a run with another file {cell.settings[key]!r} (--output names another folder)'
            )
    return True


def check_runs(cells: Sequence[Cell]) -> None:
    """Check data sets, models and branches of all runs to do, so that errors show before the first run starts."""
    configs = [TrainConfig.from_dict(cell.settings) for cell in cells]
    for dataset, data_dir in dict.fromkeys((config.dataset, config.data_dir) for config in configs):
        open_dataset(dataset, data_dir, 'train')
    for config in {repr((c.model, c.model_kwargs, c.branches, c.taps)): c for c in configs}.values():
        check_name(config.model)
        if config.branches or config.taps:
            try:
                with torch.device('meta'):
                    create_model(config.model, config.branches or 'auto', config.taps, **(config.model_kwargs or {}))
            except WRONG_ARGUMENTS as error:
                raise ValueError(f'cannot make model {config.model!r}: {error}') from error


def run_grid(cells: Sequence[Cell], output: Path, jobs: int, report: Callable[[str], None]) -> dict[str, Result]:
    """Run every cell that is not finished; a killed grid resumes where it was.

    Args:
        cells: What to run, with teachers only as `needs`; students of a failed teacher are not started.
        output: Folder of the run folders; each run's terminal output goes to NAME.log in it.
        jobs: Number of runs at a time.
        report: Called with one line about every cell that ends.

    Returns:
        The result of every successful cell, by name.

    Raises:
        ValueError: A finished run has settings other than its cell's, or its files are damaged; a data set or a model
            is not available, or the folder cannot be created.
    """
    first = list(dict.fromkeys(need for cell in cells for need in cell.needs))
    hash_file = functools.cache(hash_of)  # students share their teacher's
    check_runs([cell for cell in (*first, *cells) if not check_settings(cell, output / cell.name, hash_file)])
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'cannot write into {str(output)!r}: {error} (choose another --output)') from error
    results: dict[str, Result] = {}
    processes = Processes(output, max(1, torch.get_num_threads() // jobs) if jobs > 1 else None)
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        for stage in (first, list(dict.fromkeys(cells))):
            ready = [cell for cell in stage if cell.name not in results and can_run(cell, output, results)]
            futures = {pool.submit(run_cell, cell, output, processes): cell for cell in ready}
            for future in concurrent.futures.as_completed(futures):
                cell, (result, text) = futures[future], future.result()
                if result is not None:
                    results[cell.name] = result
                report(f'{cell.name}: {text}')
    except BaseException:
        processes.stop()
        raise
    finally:
        pool.shutdown()  # waits for running processes, which save before they end
    return results


def can_run(cell: Cell, output: Path, results: dict[str, Result]) -> bool:
    """Whether the cell's teachers are trained, or the cell itself is."""
    return all(need.name in results for need in cell.needs) or read_result(output / cell.name) is not None


def run_cell(cell: Cell, output: Path, processes: Processes) -> tuple[Result | None, str]:
    """Run one cell to its end unless it is finished; returns its result (None if it failed) and a line about it."""
    folder = output / cell.name
    if (result := read_result(folder)) is None:
        wait_until_free(folder, lambda: processes.stopping)
        result = read_result(folder)
    while result is None:
        code = processes.run(cell.name, cell.command(output))
        if code is None:
            return None, 'not started'
        # Another grid may have started the same run in the same seconds.
        other = code and wait_until_free(folder, lambda: processes.stopping)
        result = read_result(folder)
        if (code or result is None) and not other:
            return None, f'failed with exit code {code} ({output / cell.name}.log)'
    figures = result.record['result']
    text = f'top-1 last {figures["last"]["top1"]:.2f} %, best {figures["best"]["top1"]:.2f} %'
    return result, f'{text}, {result.seconds:.0f} s'
