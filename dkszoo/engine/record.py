"""run.json: what was run, on what, and what came out."""

import contextlib
import hashlib
import platform
import subprocess
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
import torchvision

import dkszoo
from dkszoo.data import class_targets, read_sample
from dkszoo.weights import parse_json, sha256

from .config import TrainConfig
from .contents import is_count, is_finite, is_number
from .data import Data
from .setup import Setup

# The entries of a record that are read, and those of a finished run's.
ENTRIES = {'settings': dict, 'seed': int, 'threads': int, 'best_on': str}
FILES = ('kd_checkpoint', 'initial_checkpoint')  # settings that name a file whose hash is recorded
FINISHED = {**ENTRIES, 'weights_sha256': str, 'result': dict}


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    return {
        'dkszoo': dkszoo.__version__,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
        'timm': timm.__version__,
        'numpy': np.__version__,
        'pillow': PIL.__version__,
    }


def git_commit() -> str | None:
    """The commit this package runs from, with '-dirty' if modified; None outside its repository."""
    is_ours = ('ls-files', '--error-unmatch', Path(__file__).name)  # fails if the folder is in another repository
    return git('describe', '--always', '--dirty', '--abbrev=40', '--match=') if git(*is_ours) else None


def git(*argv: str) -> str | None:
    """The output of git in this file's folder; None if it fails or prints nothing."""
    try:
        where = Path(__file__).parent
        done = subprocess.run(['git', *argv], cwd=where, capture_output=True, text=True, errors='replace', timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def fingerprint(data: Data) -> str:
    """The SHA-256 of sizes, classes, labels and 64 evenly spaced images of the training and of the test set."""
    digest = hashlib.sha256(repr(data.classes).encode())
    for dataset in (data.train.base, data.test.base):
        digest.update(f'{len(dataset)} {class_targets(dataset)}'.encode())
        for index in np.linspace(0, len(dataset) - 1, min(64, len(dataset)), dtype=int):
            image, target = read_sample(dataset, int(index))
            digest.update(f'{image.size} {image.mode} {int(target)}'.encode() + image.tobytes())
    return digest.hexdigest()


def image_counts(data: Data) -> dict[str, int]:
    views = {'train': data.train, 'val': data.val, 'test': data.test}
    return {f'{part}_images': len(view) if view is not None else 0 for part, view in views.items()}


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the processor and its instruction set, which determines the kernels."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{device.type} ({processor()}, {torch.backends.cpu.get_cpu_capability()})'


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def new_record(setup: Setup, argv: list[str], started: str) -> dict:
    """run.json at the start; `result`, `ended` and `weights_sha256` are added at the end."""
    return {
        'argv': argv,
        'settings': setup.config.to_dict(),
        'seed': setup.config.seed,
        'threads': torch.get_num_threads(),
        'processes': setup.world.size,
        'versions': versions(),
        'git_commit': git_commit(),
        'device': device_name(setup.world.device),
        'dataset_sha256': fingerprint(setup.data),
        **image_counts(setup.data),
        'wrong_labels': len(setup.data.flips),
        **file_hashes(setup.config),
        'best_on': setup.config.best_on,
        'started': started,
    }


def file_hashes(config: TrainConfig) -> dict[str, str | None]:
    """The SHA-256 of the files that a run starts from."""
    return {f'{key}_sha256': hash_of(getattr(config, key)) for key in FILES}


def hash_of(path: str) -> str | None:
    """The SHA-256 of a file; None if there is none."""
    return sha256(path) if path and Path(path).is_file() else None  # a resumed run no longer needs its files


def differences(record: dict, here: dict) -> list[str]:
    """What differs and can change the result, one line each: 'thread count: 4, here 2'."""
    pairs = [('thread count', 'threads'), ('number of processes', 'processes'), ('device', 'device')]
    pairs += [('data set (its fingerprint)', 'dataset_sha256'), ('teacher checkpoint', 'kd_checkpoint_sha256')]
    pairs += [('initial weights', 'initial_checkpoint_sha256'), ('checkpoint of --resume', 'resume_sha256')]
    pairs += [('commit of the code', 'git_commit')]
    found = [(what, record.get(key), here.get(key)) for what, key in pairs]
    old, new = [known if isinstance(known := of.get('versions'), dict) else {} for of in (record, here)]
    found += [(f'version of {name}', old.get(name), version) for name, version in new.items()]
    return [f'{what}: {then}, here {now}' for what, then, now in found if then is not None and then != now]


def read_record(path: Path, advice: str) -> dict:
    """The contents of a run.json, checked.

    Args:
        path: The file.
        advice: What to do if it is damaged.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not a JSON object, or `check_record` rejects it.
    """
    record = parse_record(path, advice)
    check_record(record, path, advice)
    return record


def parse_record(path: Path, advice: str) -> dict:
    """The contents of a run.json, not checked any further than that they are an object; raises as `read_record`."""
    try:
        record = parse_json(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'cannot read {str(path)!r}: {error} ({advice})') from error
    if not isinstance(record, dict):
        raise ValueError(f'{str(path)!r} is damaged: it has no settings, but is a {type(record).__name__} ({advice})')
    return record


def check_record(record: dict, path: Path, advice: str) -> None:
    """Raise a ValueError that names the file if an entry that is read is missing or has the wrong type.

    The result of a finished run is checked too: figures are numbers, accuracies are from 0 to 100 %.
    """
    for key, kind in (FINISHED if 'result' in record else ENTRIES).items():
        if type(record.get(key)) is not kind:  # bool is an int too
            raise ValueError(f'{str(path)!r} has no {key} ({advice})')
    result = record.get('result')
    if result is None:
        return
    if not is_count(result.get('best_epoch')):
        raise ValueError(f'{str(path)!r} has no best_epoch in its result ({advice})')
    for which in ('last', 'best'):
        figures = result.get(which)
        if not isinstance(figures, dict) or not {'top1', 'top5'} <= figures.keys():
            raise ValueError(f'{str(path)!r} has no top1 and top5 of {which!r} in its result ({advice})')
        for name, value in figures.items():
            percent = name.endswith(('top1', 'top5'))
            if not (is_finite(value) and 0 <= value <= 100 if percent else is_number(value)):
                what = 'percentage' if percent else 'number'
                raise ValueError(f'{str(path)!r} has a {name[:50]} of {which!r} that is no {what} ({advice})')
