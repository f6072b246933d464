"""A hundred epochs: memory and the number of open files must not grow."""

import os
import tempfile
from pathlib import Path
from statistics import mean

from dkszoo.engine.trainer import Trainer

from .runs import PLAIN, start, wait

WARM = 20  # epochs after which everything permanent has been allocated


def measure() -> None:
    """Make every epoch append a line to the file `usage`: resident bytes and number of open files."""
    plain = Trainer.finish_epoch

    def measured(self, *args):
        plain(self, *args)
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        with open('usage', 'a') as file:
            file.write(f'{pages * os.sysconf("SC_PAGE_SIZE")} {len(os.listdir("/proc/self/fd"))}\n')

    Trainer.finish_epoch = measured


def leak(epochs: int = 100) -> bool:
    """Train for `epochs` epochs with images in memory, then with loading processes."""
    good = True
    for loader, workers in (('memory', '0'), ('timm', '2')):
        with tempfile.TemporaryDirectory() as cwd:
            cwd = Path(cwd)
            argv = (*PLAIN, '--epochs', str(epochs), '--loader', loader, '--workers', workers)
            code = wait(start(argv, cwd, measure))
            if code:
                raise RuntimeError((cwd / 'output.txt').read_text()[-2000:])
            usage = [tuple(map(int, line.split())) for line in (cwd / 'usage').read_text().splitlines()]
        early, late = usage[WARM - 10 : WARM], usage[-10:]
        grown = mean(m for m, _ in late) / mean(m for m, _ in early) - 1
        files = max(f for _, f in late) - max(f for _, f in early)
        good &= grown <= 0.02 and files <= 0
        print(
            f'leak  loader {loader}: resident memory {100 * grown:+.2f} %, open files {files:+d} '
            f'(epochs {epochs - 9}-{epochs} against {WARM - 9}-{WARM})',
            flush=True,
        )
    return good
