"""A training run small enough to be interrupted hundreds of times, in processes forked after all imports."""

import functools
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from dkszoo.cli.main import main
from dkszoo.engine.checkpoint import BEST, LAST, read_checkpoint

# Three epochs of seven steps: branches, EMA, accumulation, dropout, warm-up; a recovery file every two steps.
PLAIN = tuple(
    """
    train --model cifar_resnet8 --model-kwargs channels=[2,4,4] stem_chs=2 --device cpu --experiment tiny
    --epochs 3 --train-num-samples 100 --batch-size 16 --lr 0.05 --warmup-epochs 1 --recovery-interval 2
    --model-ema --model-ema-decay 0.8 --drop 0.1 --grad-accum-steps 2 --workers 0 --log-interval 1000
    """.split()
)
# The same with more state: mixup, Adam's moments, loading processes; the best epoch is chosen on the test set.
MIXED = (
    *(*PLAIN, *'--mixup 0.2 --opt adamw --lr 0.003 --grad-accum-steps 1 --loader timm --workers 2'.split()),
    *('--best-on', 'test', '--eval-test-every-epoch'),
)
FOLDER = 'runs/tiny'


def import_all() -> None:
    """Import what a run imports late, so that forked processes need not; one thread, as pools do not survive a fork."""
    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import dkszoo.cli.export
    import dkszoo.cli.train  # noqa: F401

    torch.set_num_threads(1)


def start(argv: tuple[str, ...], cwd: Path, before: Callable[[], None] = lambda: None) -> int:
    """Fork a process that runs a command line in a folder; returns its id. Its output goes to output.txt there.

    Args:
        argv: Arguments of `dkszoo`.
        cwd: Working folder of the process, which leads its own process group.
        before: Called first in the new process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        output = os.open('output.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdin, sys.stdout, sys.stderr = open(os.devnull), open(1, 'w'), open(2, 'w')
        multiprocessing.set_start_method('fork', force=True)  # a fork server answers only the process that started it
        logging.getLogger().handlers.clear()
        before()
        code = main(list(argv))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a forked process; minus the signal number if one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(argv: tuple[str, ...], cwd: Path) -> None:
    """Run a command line to its end.

    Raises:
        RuntimeError: Its exit code is not 0.
    """
    code = wait(start(argv, cwd))
    if code:
        raise RuntimeError(f'exit code {code}:\n{(cwd / "output.txt").read_text()[-3000:]}')


def digest(value) -> str:
    """SHA-256 of the types and values of anything a checkpoint may hold."""
    sha = hashlib.sha256()

    def add(value) -> None:
        sha.update(type(value).__name__.encode())
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                add(key)
                add(value[key])
        elif isinstance(value, list | tuple):
            sha.update(str(len(value)).encode())
            for item in value:
                add(item)
        elif isinstance(value, torch.Tensor):
            sha.update(f'{value.dtype} {tuple(value.shape)}'.encode())
            sha.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            sha.update(repr(value).encode())

    add(value)
    return sha.hexdigest()


def outcome(cwd: Path) -> dict[str, object]:
    """Everything a finished run leaves, without times: whole checkpoints, figures, and file names."""
    folder = cwd / FOLDER
    record = json.loads((folder / 'run.json').read_text())
    lines = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    return {
        'last': digest(read_checkpoint(folder / LAST)),
        'best': digest(read_checkpoint(folder / BEST)),
        'summary.csv': (folder / 'summary.csv').read_bytes(),
        'log.jsonl': [{k: v for k, v in line.items() if k not in ('time', 'seconds')} for line in lines],
        'result': record['result'],
        'weights_sha256': record['weights_sha256'],
        'files': sorted(os.listdir(folder)),
    }


@functools.cache
def reference(argv: tuple[str, ...]) -> tuple[dict, float]:
    """The outcome of an uninterrupted run, and the seconds it takes."""
    with tempfile.TemporaryDirectory() as cwd:
        began = time.monotonic()
        finish(argv, Path(cwd))
        return outcome(Path(cwd)), time.monotonic() - began


def differences(argv: tuple[str, ...], cwd: Path) -> list[str]:
    """The parts in which a finished run differs from the uninterrupted one."""
    expected, got = reference(argv)[0], outcome(cwd)
    return [part for part in expected if expected[part] != got[part]]


def kill(pid: int) -> bool:
    """SIGKILL a process; returns False if it had already ended."""
    os.kill(pid, signal.SIGKILL)
    return wait(pid) == -signal.SIGKILL
