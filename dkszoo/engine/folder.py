"""The run folder: what lies in it and how it is written."""

import json
import os
from pathlib import Path

import yaml
from timm.utils import update_summary

from dkszoo.weights import write_durably, write_text

from .config import FREE, TrainConfig, flag


class RunFolder:
    """A folder with the settings, records and checkpoints of one run.

    Args:
        path: The folder; made by `prepare`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    @staticmethod
    def of(config: TrainConfig) -> 'RunFolder':
        """The folder a run's settings name: OUTPUT/EXPERIMENT."""
        dataset = (config.dataset or Path(config.data_dir or 'folder').name).replace('/', '_')
        name = config.experiment or f'{config.model}-{config.method}-{dataset}'
        return RunFolder(Path(config.output) / name.replace('/', '_'))

    def prepare(self, config: TrainConfig) -> bool:
        """Make the folder, or find the run in it.

        Returns:
            Whether there is a run with these settings already.

        Raises:
            ValueError: Another run is in it, or it cannot be written.
        """
        settings = self.path / 'args.yaml'
        if config.overwrite:
            self.clear()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if settings.exists():
                self.compare(yaml.safe_load(settings.read_text(encoding='utf-8')), config)
                return True
            write_text(settings, yaml.safe_dump(config.to_dict(), sort_keys=False))
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(
                f'cannot write run folder {str(self.path)!r}: {error} (choose another --output)'
            ) from error
        return False

    def compare(self, stored: dict, config: TrainConfig) -> None:
        """Raise a ValueError that names the first setting in which the run in the folder differs."""
        fixed = config.fixed()
        stored = {key: value for key, value in (stored or {}).items() if key not in FREE}
        for key in fixed | stored:
            if fixed.get(key) != stored.get(key):
                raise ValueError(
                    f'{str(self.path)!r} holds a run with {flag(key)} {stored.get(key)}, not {fixed.get(key)} '
                    '(--overwrite starts anew, --experiment names another folder)'
                )

    def clear(self) -> None:
        """Remove the records and checkpoints of a run; other files stay."""
        names = ('args.yaml', 'run.json', 'summary.csv', 'log.jsonl', 'curves.png')
        for path in [*(self.path / name for name in names), *self.path.glob('*.pth.tar')]:
            path.unlink(missing_ok=True)

    def read_record(self) -> dict:
        """The contents of run.json; empty if there is none."""
        path = self.path / 'run.json'
        return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}

    def write_record(self, record: dict) -> None:
        write_text(self.path / 'run.json', json.dumps(record, indent=2) + '\n')

    def log(self, **entry) -> None:
        """Append one line to log.jsonl."""
        with open(self.path / 'log.jsonl', 'a', encoding='utf-8') as file:
            file.write(json.dumps(entry) + '\n')

    def trim_log(self, epoch: int) -> None:
        """Drop what log.jsonl says of `epoch` and later ones, and a last line that was cut off."""
        path = self.path / 'log.jsonl'
        if path.exists():
            lines = [line for line in path.read_text(encoding='utf-8').splitlines() if line.endswith('}')]
            write_text(path, ''.join(f'{line}\n' for line in lines if json.loads(line)['epoch'] < epoch))

    def write_summary(self, history: list[dict]) -> None:
        """summary.csv, whole, from one row an epoch (epoch, lr, train, eval); timm's columns, no times."""

        def write(temporary: Path) -> None:
            for i, row in enumerate(history):
                update_summary(
                    row['epoch'], row['train'], row['eval'], str(temporary), lr=row['lr'], write_header=i == 0
                )

        if history:
            write_durably(self.path / 'summary.csv', write)
