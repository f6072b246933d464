"""The training processes of a grid."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import dkszoo
from dkszoo.engine.signals import GRID


class Processes:
    """Runs of `train.py`, each in a process of its own.

    Args:
        output: The grid's folder; a run's output is appended to NAME.log in it.
        threads: Threads per process; None: torch's default.
    """

    def __init__(self, output: Path, threads: int | None):
        self.output, self.threads = output, threads
        self.running: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.stopping = False

    def run(self, name: str, arguments: Sequence[str]) -> int | None:
        """Train to the end; returns the exit code, or None if it was not started because of `stop`."""
        # -P: not the dkszoo of the current folder, which may be another one than ours.
        process = self.start([sys.executable, '-P', '-m', 'dkszoo', 'train', *arguments], self.output / f'{name}.log')
        if process is None:
            return None
        code = process.wait()
        with self.lock:
            self.running.discard(process)
        return code

    def start(self, command: list[str], log: Path) -> subprocess.Popen | None:
        paths = [str(Path(dkszoo.__file__).parents[1]), *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), GRID: '1'}
        if self.threads:
            environment['OMP_NUM_THREADS'] = str(self.threads)
        with self.lock:
            if self.stopping:
                return None
            with open(log, 'a', encoding='utf-8') as file:
                # Its own process group, so that a signal to ours, such as Ctrl-C, reaches it only once, via `stop`.
                process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, process_group=0)
            self.running.add(process)
            return process

    def stop(self) -> None:
        """Ask all processes to save and exit, and start no more."""
        with self.lock:
            self.stopping = True
            for process in self.running:
                process.terminate()
