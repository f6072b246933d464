"""An error or a SIGKILL at every single write, fsync, rename and unlink of a save; and full disks."""

import builtins
import contextlib
import errno
import io
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from dkszoo import engine
from dkszoo.cli.reproduce import read_flags
from dkszoo.engine.checkpoint import newest_checkpoint, position
from dkszoo.engine.config import TrainConfig

from .runs import PLAIN, differences, finish, reference, start, wait


class CountedFile:
    """A file whose writes are counted; everything else is passed on."""

    def __init__(self, file, count: Callable[[str], None]):
        self.file, self.count = file, count

    def write(self, data) -> int:
        self.count('write')
        return self.file.write(data)

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self) -> 'CountedFile':
        return self

    def __exit__(self, *error) -> None:
        self.file.close()


@contextlib.contextmanager
def watched(happen: Callable[[], None], at: int | None = None) -> Iterator[list[str]]:
    """Count file operations and call `happen` before operation number `at`; yields the growing list of their names."""
    seen = []

    def count(name: str) -> None:
        seen.append(name)
        if len(seen) - 1 == at:
            happen()

    def counting(name: str, call: Callable) -> Callable:
        return lambda *args, **kwargs: (count(name), call(*args, **kwargs))[1]

    def opened(file, mode='r', *args, **kwargs):
        file = plain_open(file, mode, *args, **kwargs)
        return CountedFile(file, count) if set(mode) & set('wax+') else file

    plain_open, before = builtins.open, {name: getattr(os, name) for name in ('fsync', 'replace', 'unlink', 'sendfile')}
    builtins.open = io.open = opened
    for name, call in before.items():
        setattr(os, name, counting({'sendfile': 'write'}.get(name, name), call))
    try:
        yield seen
    finally:
        builtins.open = io.open = plain_open
        for name, call in before.items():
            setattr(os, name, call)


def fail() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Saver:
    """A run whose saves can be repeated from the same state: a recovery file, the end of a best epoch, a recovery file.

    Args:
        cwd: Folder in which the run folder is created, with the files of a first epoch and a recovery file.
    """

    def __init__(self, cwd: Path):
        argv = [*PLAIN[1:], '--output', str(cwd / 'runs'), '--overwrite']
        config = TrainConfig.from_dict(read_flags(argv))
        self.run = engine.prepare(config, ['train.py', *argv], engine.StopRequest())
        self.keeper, self.progress = self.run.trainer.keeper, self.run.trainer.progress
        self.folder, self.copy = self.run.folder.path, cwd / 'copy'
        self.save()
        shutil.copytree(self.folder, self.copy)
        self.start = dict(vars(self.progress)), torch.get_rng_state()

    def save(self) -> None:
        """Everything a run does from the middle of an epoch into the next, except the training."""
        progress = self.progress
        progress.step = 4
        self.change()
        self.keeper.save_recovery(progress)
        self.change()
        row = dict(epoch=progress.epoch, lr=0.1, train={'loss': 1.0}, eval={'top1': 10.0 + progress.epoch})
        progress.history = [*progress.history, row]
        progress.best_epoch, progress.best_metric = progress.epoch, row['eval']['top1']
        progress.epoch, progress.step = progress.epoch + 1, 0
        self.keeper.save_epoch(progress, progress.best_metric, better=True)
        progress.step = 2
        self.change()
        self.keeper.save_recovery(progress)

    @torch.no_grad()
    def change(self) -> None:
        for parameter in self.run.trainer.setup.task.parameters():
            parameter.add_(1.0)

    def rewind(self) -> None:
        """Restore folder and progress to their state after the first save."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.copy, self.folder)
        vars(self.progress).update(self.start[0])

    def newest(self) -> tuple[tuple[int, int], list[str]]:
        """Position of the newest good checkpoint, and the messages about unreadable ones."""
        bad = []
        found = newest_checkpoint(self.folder, bad.append)
        return position(found[1]), bad


def break_save(happen: Callable[[], None], every: int = 1) -> tuple[int, int, dict[str, int]]:
    """Break a save at each of its file operations; returns how many were tried, failures, and the number by kind.

    Args:
        happen: Called before the operation; does not return.
        every: Try only every n-th write, but all other operations.
    """
    with tempfile.TemporaryDirectory() as cwd:
        saver = Saver(Path(cwd))
        reached = saver.newest()[0]
        with watched(fail) as operations:
            saver.save()
        wrong, tried = 0, [i for i, name in enumerate(operations) if name != 'write' or i % every == 0]
        for at in tried:
            saver.rewind()
            pid = os.fork()
            if not pid:
                with contextlib.suppress(OSError), watched(happen, at):
                    saver.save()
                    os._exit(3)  # the error was swallowed
                os._exit(0)
            code, left = wait(pid), sorted(path.name for path in saver.folder.glob('.*.tmp'))
            expected = 0 if happen is fail else -signal.SIGKILL
            found, bad = saver.newest()
            if code != expected or found < reached or bad or (left and happen is fail):
                wrong += 1
                print(f'  operation {at} ({operations[at]}): exit {code}, newest {found}, bad {bad}, left {left}')
        saver.run.folder.lock.release()
        names = [operations[at] for at in tried]
        return len(tried), wrong, {name: names.count(name) for name in ('write', 'fsync', 'replace', 'unlink')}


def no_space(limits: list[int]) -> int:
    """Run with each limit on file size in bytes, then resume without; returns the number of failures."""
    wrong = 0
    for limit in limits:
        with tempfile.TemporaryDirectory() as cwd:
            cwd = Path(cwd)

            def lower(limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            code = wait(start(PLAIN, cwd, lower))
            last = (cwd / 'output.txt').read_text().strip().splitlines()[-1]
            finish(PLAIN, cwd)
            broken = differences(PLAIN, cwd)
            if code != 1 or 'dkszoo: error: cannot write' not in last or broken:
                wrong += 1
                print(f'  limit {limit}: exit {code}, {last!r}, differs in {broken}')
    return wrong


def faults() -> bool:
    """Try errors and kills at every file operation of a save, then full disks."""
    wrong = 0
    for name, happen in (('errors', fail), ('kills', die)):
        total, bad, kinds = break_save(happen)
        counts = ', '.join(f'{count} {kind}' for kind, count in kinds.items())
        print(f'faults  {name} at each of {total} file operations ({counts}): {total - bad} leave a newest good file')
        wrong += bad
    reference(PLAIN)
    limits = [20_000, 60_000, 100_000]
    bad = no_space(limits)
    print(f'faults  no space left, {len(limits)} runs: {len(limits) - bad} end with exit code 1 and resume exactly')
    return not wrong + bad
