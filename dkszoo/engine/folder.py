"""The run folder: what it holds and how it is written."""

import contextlib
import csv
import errno
import io
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dkszoo.data import Flip
from dkszoo.weights import dump_yaml, parse_json, parse_yaml, write_durably, write_text

from .checkpoint import BEST, LAST, recovery_files
from .config import TrainConfig, check_setting
from .data import open_data
from .lock import FolderLock
from .record import check_record, parse_record

_logger = logging.getLogger(__name__)

FLIPS = 'label_noise.csv'
ANEW = '--overwrite starts anew, or delete the folder'
RECORDS = ('run.json', 'summary.csv', 'log.jsonl', 'curves.png', FLIPS, 'args.yaml')
LEFTOVER = re.compile(rf'\.({"|".join(map(re.escape, RECORDS))}|.*\.pth\.tar)\..*\.tmp')


class RunFolder:
    """A folder with the settings, records and checkpoints of one run.

    Args:
        path: The folder; `claim` creates it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.settings, self.record = self.path / 'args.yaml', self.path / 'run.json'
        self.lock = FolderLock(self.path)

    @staticmethod
    def of(config: TrainConfig) -> 'RunFolder':
        """The folder a run's settings name: OUTPUT/EXPERIMENT."""
        dataset = (config.dataset or Path(config.data_dir or 'folder').name).replace('/', '_')
        name = config.experiment or f'{config.model}-{config.method}-{dataset}'
        if not name.strip('.'):
            raise ValueError(f'--experiment {name!r} is not a folder name (choose another)')
        return RunFolder(Path(config.output) / name.replace('/', '_'))

    def open(self, config: TrainConfig) -> None:
        """Lock an existing folder, and check that a run in it has these settings or may be overwritten.

        Raises:
            ValueError: It holds another run, is in use or cannot be written; or --overwrite would delete the file of
                --resume.
        """
        with self.writing():
            self.lock.acquire()
            for path in self.path.iterdir():
                if LEFTOVER.fullmatch(path.name):  # of a killed run; we hold the lock, so nobody is writing it
                    path.unlink()
        if not config.overwrite:
            self.check_settings(config)
        elif config.resume and self.path.resolve() in Path(config.resume).resolve().parents:
            raise ValueError(f'--overwrite would delete {config.resume!r} (leave it out, or copy the file elsewhere)')

    def claim(self, config: TrainConfig, new: bool) -> None:
        """Create and lock the folder, or clear it, and write the settings, so that it belongs to this run.

        Raises:
            ValueError: It cannot be written.
        """
        with self.writing():
            if new:
                self.path.mkdir(parents=True)  # fails if another run has just done the same
                self.lock.acquire()
            elif config.overwrite:
                self.clear()
            if not self.settings.exists():
                write_text(self.settings, dump_yaml({**config.to_dict(), 'overwrite': False}))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Context in which an OSError becomes a ValueError that says what to do about the folder."""
        try:
            yield
        except OSError as error:
            cure = 'free some space' if error.errno in (errno.ENOSPC, errno.EDQUOT) else 'choose another --output'
            raise ValueError(f'cannot write run folder {str(self.path)!r}: {error} ({cure})') from error

    def check_settings(self, config: TrainConfig, finished: bool = False) -> None:
        """Raise a ValueError that names the first setting that differs from those of the run in the folder, if any."""
        if not self.settings.exists():
            if finished or any(self.path.glob('*.pth.tar')):
                held = 'a result' if finished else 'checkpoints'
                raise ValueError(
                    f'{str(self.path)!r} holds {held} but no args.yaml, the settings of the run '
                    '(put it back, or --overwrite starts anew)'
                )
            return
        try:
            stored = parse_yaml(self.settings.read_text(encoding='utf-8'))
        except ValueError:
            stored = None
        if not isinstance(stored, dict):
            raise ValueError(f'{str(self.settings)!r} is damaged (put a copy back, or --overwrite starts anew)')
        unknown = stored.keys() - config.to_dict().keys()
        if unknown:
            first = min(map(str, unknown))
            raise ValueError(
                f'{str(self.settings)!r} has a setting {first!r}, which this version of dkszoo does not know '
                '(resume with the version that wrote it, or --overwrite starts anew)'
            )
        if config.to_dict().keys() - stored.keys():  # settings newer than the run: it had their defaults
            stored = open_data(TrainConfig.from_dict(stored))[0].to_dict()
        for key, value in {'method': config.method, **config.fixed()}.items():  # branches may differ because of it
            check_setting(
                self.path, key, stored[key], value, '--overwrite starts anew, --experiment names another folder'
            )

    def clear(self) -> None:
        """Remove the records and checkpoints of a run; other files stay.

        The result is removed first and the settings last, so that a crash leaves a run with its settings.
        """
        first, *rest = [self.path / name for name in RECORDS]
        checkpoints = [self.path / name for name in (LAST, BEST)]
        for path in [first, *checkpoints, *recovery_files(self.path), *rest]:
            path.unlink(missing_ok=True)

    def read_record(self, quiet: bool = False) -> dict:
        """The contents of run.json; empty if it is missing or damaged: the run writes it again.

        A result in it is not checked; `check_result` does that. Damage is logged unless `quiet`.
        """
        try:
            record = parse_record(self.record, ANEW)
            if 'result' not in record:
                check_record(record, self.record, ANEW)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:
            if not quiet:
                _logger.warning('skipped: %r is damaged', str(self.record))
            return {}
        return record

    def check_result(self, record: dict) -> None:
        """Raise a ValueError that says what to do if the record of a finished run is damaged."""
        check_record(record, self.record, ANEW)

    def write_record(self, record: dict) -> None:
        write_text(self.record, json.dumps(record, indent=2) + '\n')

    def log(self, **entry) -> None:
        """Append a line to log.jsonl, synced to disk before the checkpoint that marks the epoch as done."""
        with open(self.path / 'log.jsonl', 'a', encoding='utf-8') as file:
            file.write(json.dumps(entry) + '\n')
            file.flush()
            os.fsync(file.fileno())

    def trim_log(self, epoch: int) -> None:
        """Remove the lines about `epoch` and later ones from log.jsonl, and unreadable ones, such as one cut off."""
        path = self.path / 'log.jsonl'
        if path.exists():
            lines = path.read_text(encoding='utf-8', errors='replace').splitlines(keepends=True)
            write_text(path, ''.join(line for line in lines if logged_epoch(line) < epoch))

    def write_flips(self, flips: list[Flip]) -> None:
        """Write label_noise.csv: the labels that were made wrong (index in the training set, old and new class)."""
        rows = [','.join(Flip._fields), *(','.join(map(str, flip)) for flip in flips)]
        write_text(self.path / FLIPS, '\n'.join(rows) + '\n')

    def write_summary(self, history: list[dict]) -> None:
        """Write all of summary.csv, from one row per epoch (epoch, lr, train, eval); timm's columns, no times."""
        path, rows = self.path / 'summary.csv', []
        for row in history:
            figures = {f'{part}_{name}': value for part in ('train', 'eval') for name, value in row[part].items()}
            rows.append({'epoch': row['epoch'], **figures, 'lr': row['lr']})
        if not rows:
            path.unlink(missing_ok=True)
            return
        text = io.StringIO(newline='')
        names = dict.fromkeys(name for row in rows for name in row if name != 'lr')  # --resume may have changed them
        writer = csv.DictWriter(text, [*names, 'lr'], restval='')
        writer.writeheader()
        writer.writerows(rows)
        write_durably(path, lambda temporary: temporary.write_bytes(text.getvalue().encode()))


def logged_epoch(line: str) -> float:
    """The epoch of a line of log.jsonl; infinity for an incomplete line."""
    try:
        epoch = parse_json(line)['epoch'] if line.endswith('\n') else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
    return epoch if type(epoch) is int else math.inf
