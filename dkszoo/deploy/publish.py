"""Packaging an export as a pretrained tag. For maintainers; docs/weights.md lists the steps."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from dkszoo.models._tags import FILES
from dkszoo.weights import own_names, read_card, sha256, tag_of, write_card, write_durably

from .model_card import LEFT_OUT

BUDGET = 25e6  # bytes of all packaged weights together
OWN_TO_A_RUN = {*LEFT_OUT, 'seed', 'data_dir', 'skip_nonfinite'}
MEASURED = ('loss', 'top1', 'top5', 'ece', 'images', 'batch_size')


def publish(
    export: str | os.PathLike,
    tag: str,
    measured: dict,
    runs: Sequence[str | os.PathLike],
    note: str,
    folder: str | os.PathLike = FILES,
) -> Path:
    """Put an export into the package as the tag `<arch>.<tag>`.

    Args:
        export: A .safetensors with its card beside it, as `dkszoo export` wrote them.
        tag: Method and data set, such as 'dks_fashion_mnist'.
        measured: The last line printed by `dkszoo validate --checkpoint EXPORT --device cpu`, parsed.
        runs: run.json of every run with these settings, the exported one first; they provide the spread over seeds.
        note: What a reader must know about the result, such as which method was better and by how much.
        folder: Folder of the packaged weights.

    Returns:
        The .safetensors written; its card is the export's with 'tag', 'results', 'settings', 'runs', 'spread' and
        'note' added.

    Raises:
        ValueError: The export is damaged, its network is not fully described by its name, or it is not what was
            measured or run; the runs differ in more than the seed; or the packaged weights would be too large.
    """
    card = read_card(export)
    check_new_tag(card, tag)
    folder, arch = Path(folder), card['arch']
    records = [json.loads(Path(run).read_text(encoding='utf-8')) for run in runs]
    settings = same_settings(records)
    told = (measured['model'], settings['model'], settings['method'], settings['dataset'])
    if told != (arch, arch, card['method'], card['dataset']):
        raise ValueError(f'measured and run were {told}, exported was {(arch, card["method"], card["dataset"])}')
    path = folder / f'{arch}.{tag}.safetensors'
    content = Path(export).read_bytes()
    total = len(content) + sum(file.stat().st_size for file in folder.glob('*.safetensors') if file != path)
    if total > BUDGET:
        raise ValueError(f'the packaged weights would be {total / 1e6:.1f} MB (at most {BUDGET / 1e6:.0f} MB)')
    card |= {
        'tag': tag,
        'results': {key: measured[key] for key in MEASURED},
        'settings': settings,
        'runs': [describe_run(record) for record in records],
        'spread': {which: spread([r['result'][which]['top1'] for r in records]) for which in ('best', 'last')},
        'note': note,
    }
    folder.mkdir(exist_ok=True)
    write_durably(path, lambda temporary: temporary.write_bytes(content))
    write_card(path, {**card, 'sha256': sha256(path)})
    return path


def check_new_tag(card: dict, tag: str) -> None:
    """Raise a ValueError unless the tag fully describes the network: architecture, method, classes and channels."""
    if card['arch'] not in own_names():
        raise ValueError(f'{card["arch"]!r} is not an untagged dkszoo name (export a network made by its plain name)')
    prefix = tag_of({**card, 'dataset': None})
    if not tag.startswith(f'{prefix}_'):
        raise ValueError(f'{tag!r} is not a tag for a network trained with {card["method"]} (call it {prefix}_...)')
    more = {key for key in card['model_args'] if 'drop' not in key} - {'num_classes', 'in_chans'}
    if more:
        raise ValueError(f'a tag cannot carry {", ".join(sorted(more))} (only a name with its classes and channels)')


def same_settings(records: Sequence[dict]) -> dict:
    """The settings that all runs share, without those specific to a run.

    Raises:
        ValueError: There is no run, one is not finished, they differ, or two have the same seed.
    """
    if not records or not all('result' in record for record in records):
        raise ValueError('publish needs the run.json of every run, finished')
    shared = [{k: v for k, v in record['settings'].items() if k not in OWN_TO_A_RUN} for record in records]
    for other in shared[1:]:
        # A setting that older runs lack says nothing where it is off.
        differing = sorted(key for key in shared[0] | other if (other.get(key) or None) != (shared[0].get(key) or None))
        if differing:
            raise ValueError(f'the runs differ in {", ".join(differing)} (only the seed may differ)')
    seeds = [record['seed'] for record in records]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f'the runs have the seeds {seeds} (give each once)')
    return shared[0]


def describe_run(record: dict) -> dict:
    """The entry of one run in a card."""
    result = {which: record['result'][which]['top1'] for which in ('best', 'last')}
    keys = ('seed', 'device', 'versions', 'git_commit', 'started', 'ended', 'weights_sha256')
    return {**{key: record.get(key) for key in keys}, 'top1': result, 'best_on': record['best_on']}


def spread(values: Sequence[float]) -> dict:
    """Mean, sample standard deviation (None for a single run) and number of top-1 accuracies in percent."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {'mean': statistics.fmean(values), 'std': std, 'n': len(values)}
