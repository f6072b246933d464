"""The table of a reproduction beside the paper's, and that of a comparison."""

from dataclasses import dataclass

from .grid import Cell, Result
from .records import Record, remarks
from .reproduce import TEMPERATURES, Plan
from .stats import gain_by_seed, mean_std, show, table

HEADER = (
    *('row', 'network run', 'figure, %', 'paper', 'paper gain', 'runs', 'last', 'best'),
    *('gain, last (95 %)', 'gain, best (95 %)', 'at equal time, last', 'at equal time, best', 'time'),
)


@dataclass(frozen=True)
class Measured:
    """The finished runs of one row, by seed, and their temperature if it was chosen among several."""

    runs: dict[int, Result]
    temperature: int | None = None


def measure(plan: Plan, results: dict[str, Result]) -> Measured | None:
    """The finished runs of a row; None without.

    Of several temperatures those with the best mean top-1 are taken, so that all figures of a setting have one.
    """
    metric = plan.record.metric.removesuffix('_err').replace('top5', 'top1')
    variants = {index: runs for index, cells in enumerate(plan.cells) if (runs := by_seed(cells, results))}
    if not variants:
        return None
    seeds = set.intersection(*map(set, variants.values()))  # one lucky seed is not compared with several

    def mean(index: int) -> float:
        runs = variants[index]
        return mean_std([runs[seed].metric(metric, 'best') for seed in seeds or runs])[0]

    best = max(variants, key=mean)
    return Measured(variants[best], TEMPERATURES[best] if len(plan.cells) > 1 else None)


def by_seed(cells: tuple[Cell, ...], results: dict[str, Result]) -> dict[int, Result]:
    return {cell.settings['seed']: results[cell.name] for cell in cells if cell.name in results}


def accuracy(record: Record, run: Result, which: str) -> float:
    """The row's figure as an accuracy, so that higher is better whatever the paper prints."""
    return run.metric(record.metric.removesuffix('_err'), which)


def report(plans: list[Plan], results: dict[str, Result]) -> str:
    """Markdown: the paper's numbers beside ours, with gains paired by seed, and notes on the published numbers."""
    rows, first = [], {}
    for plan in plans:
        record, measured = plan.record, measure(plan, results)
        paper = (record.figure, show(record.value, record.std), '' if record.gain is None else f'{record.gain:+.2f}')
        base_record, base = first.setdefault(record.group, (record, measured))
        if measured is None:
            rows.append((record.row, network(plan), *paper, '0', *[''] * 7))
            continue
        runs = measured.runs
        figures = [show(*mean_std([run.metric(record.metric, w) for run in runs.values()])) for w in ('last', 'best')]
        gains = [''] * 2
        if base is not None and base is not measured:
            gains = [gain(record, runs, base_record, base.runs, which) for which in ('last', 'best')]
        equal = by_seed(plan.equal_time, results)
        at_equal_time = [gain(record, runs, base_record, equal, which) if equal else '' for which in ('last', 'best')]
        name = record.row if measured.temperature is None else f'{record.row} (T={measured.temperature})'
        seconds = mean_std([run.seconds for run in runs.values()])[0]
        rows.append((name, network(plan), *paper, str(len(runs)), *figures, *gains, *at_equal_time, f'{seconds:.0f} s'))
    notes = remarks([plan.record for plan in plans])
    return table(HEADER, rows) + (f'\n\nOf the published numbers:\n\n{notes}' if notes else '')


def network(plan: Plan) -> str:
    """The network that is trained: the paper's, or its substitute."""
    settings = plan.cells[0][0].settings
    more = ', '.join(f'{key}={value}' for key, value in (settings.get('model_kwargs') or {}).items())
    return settings['model'] + (f' ({more})' if more else '')


def gain(record: Record, runs: dict, base_record: Record, base: dict, which: str) -> str:
    """Points of accuracy over the baseline, on the seeds both have, with a 95 % interval if there are several."""
    values = {seed: accuracy(record, run, which) for seed, run in runs.items()}
    return gain_by_seed(values, {seed: accuracy(base_record, run, which) for seed, run in base.items()})


def compare_methods(results: dict[str, list[Result]]) -> str:
    """A Markdown table of the methods that have results; gains are over the first method."""
    header = ('method', 'runs', 'last top-1 %', 'best top-1 %', 'gain, last (95 %)', 'gain, best (95 %)', 'time')
    rows, first = [], next(iter(results))
    base_seconds = mean_std([run.seconds for run in results[first]])[0] if results[first] else None
    for method, runs in results.items():
        if not runs:
            continue
        columns, gains = [method, str(len(runs))], []
        for which in ('last', 'best'):
            values, base = ({r.record['seed']: r.metric('top1', which) for r in results[of]} for of in (method, first))
            columns.append(show(*mean_std(list(values.values()))))
            gains.append('' if method == first else gain_by_seed(values, base))
        seconds = mean_std([run.seconds for run in runs])[0]
        ratio = '' if base_seconds is None else f' ({seconds / base_seconds:.2f}x)'
        rows.append((*columns, *gains, f'{seconds:.0f} s{ratio}'))
    return table(header, rows)
