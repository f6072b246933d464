"""Error against training length and against training time, from runs of `dkszoo compare`.

    dkszoo compare --methods baseline:epochs=10,baseline:epochs=20,ds:epochs=10,dks:epochs=10 --model cifar_wrn16_1 ...
    python -m benchmarks.lengths runs/compare-cifar_wrn16_1 --figure lengths.png

Prints a Markdown table: test error at the last epoch in percent, mean (sample standard deviation), and the gain in
points over the baseline, if it was run, at equal epochs and at equal time. For the latter, the baseline's error is
interpolated between two lengths over the logarithm of the time, and left empty beyond its shortest and longest run. The
time estimates that of an otherwise idle machine: epochs times the lowest decile of the training seconds per epoch, over
all runs of a method (`log.jsonl` of each).
"""

import argparse
import bisect
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dkszoo.papers.grid import Result, read_result
from dkszoo.papers.stats import gain_by_seed, mean_std, show, table
from dkszoo.tasks import METHODS

QUIET = 0.1  # quantile of the epochs' seconds that stands for an idle machine
HEADER = ('method', 'epochs', 'runs', 'error, last', 'gain, equal epochs', 'gain, equal time', 'time')


@dataclass
class Point:
    """All seeds of a method at one length: errors in percent, by seed, and seconds of training."""

    errors: dict[int, float]
    seconds: float

    @property
    def error(self) -> tuple[float, float | None]:
        return mean_std(list(self.errors.values()))


def read_points(folder: Path) -> dict[str, dict[int, Point]]:
    """The finished runs of a grid, by method and epochs.

    Raises:
        ValueError: Two runs have the same method, epochs and seed.
    """
    runs: dict[tuple[str, int], list[Result]] = {}
    for path in sorted(folder.glob('*/run.json')):
        result = read_result(path.parent)
        if result is not None:
            settings = result.record['settings']
            runs.setdefault((settings['method'], settings['epochs']), []).append(result)
    quiet = {}
    for method in {method for method, _ in runs}:
        seconds = [s for (of, _), group in runs.items() if of == method for run in group for s in epoch_seconds(run)]
        quiet[method] = float(np.quantile(seconds, QUIET))
    points: dict[str, dict[int, Point]] = {}
    for (method, epochs), group in sorted(runs.items(), key=in_order):
        errors = {run.record['seed']: run.metric('top1_err', 'last') for run in group}
        if len(errors) < len(group):
            raise ValueError(f'{method} with {epochs} epochs and one seed was run with several settings')
        points.setdefault(method, {})[epochs] = Point(errors, epochs * quiet[method])
    return points


def in_order(item) -> tuple[int, str, int]:
    """Sort key: methods, and so their colours, in the order of `METHODS`, with sums at the end."""
    (method, epochs), _ = item
    return (*METHODS, method).index(method), method, epochs


def epoch_seconds(run: Result) -> list[float]:
    """Training seconds of each epoch of a run."""
    with open(run.folder / 'log.jsonl', encoding='utf-8') as file:
        return [json.loads(line)['seconds']['train'] for line in file]


def at_time(curve: dict[int, Point], seconds: float) -> dict[int, float]:
    """Error by seed after `seconds` of training, interpolated between two lengths; empty beyond the runs."""
    points = list(curve.values())
    times = [p.seconds for p in points]
    if not times or not times[0] <= seconds <= times[-1]:
        return {}
    after = bisect.bisect_left(times, seconds)
    ends = points[max(after - 1, 0)], points[after]
    at, ticks = math.log(seconds), [math.log(p.seconds) for p in ends]
    seeds = ends[0].errors.keys() & ends[1].errors.keys()
    return {seed: float(np.interp(at, ticks, [p.errors[seed] for p in ends])) for seed in seeds}


def report(points: dict[str, dict[int, Point]]) -> str:
    base, rows = points.get('baseline', {}), []
    for method, curve in points.items():
        for epochs, point in curve.items():
            equal = ['', '']
            if method != 'baseline':
                equal[0] = gain_by_seed(base[epochs].errors, point.errors) if epochs in base else ''
                equal[1] = gain_by_seed(at_time(base, point.seconds), point.errors)
            runs = str(len(point.errors))
            rows.append((method, str(epochs), runs, show(*point.error), *equal, f'{point.seconds:.0f} s'))
    return table(HEADER, rows)


def draw(points: dict[str, dict[int, Point]], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(9, 3.8), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True)
    for method, curve in points.items():
        means, spreads = zip(*(p.error for p in curve.values()), strict=True)
        for axes, x in zip(panels, (list(curve), [p.seconds / 60 for p in curve.values()]), strict=True):
            axes.errorbar(x, means, [s or 0 for s in spreads], label=method, marker='o', markersize=4, capsize=3)
    for axes, label in zip(panels, ('epochs', 'training time (minutes)'), strict=True):
        axes.set(xlabel=label, xscale='log')
        axes.grid(alpha=0.3, which='both')
    ticks = sorted({epochs for curve in points.values() for epochs in curve})
    panels[0].set_xticks(ticks, [str(n) for n in ticks])
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[1].xaxis.set_major_formatter('{x:g}')
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel('test error (%)')
    panels[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('folder', type=Path, help="the grid's folder, runs/compare-MODEL")
    parser.add_argument('--figure', type=Path, metavar='PNG', help='also draw the curves')
    args = parser.parse_args()
    points = read_points(args.folder)
    if not points:
        parser.error(f'no finished run in {str(args.folder)!r}')
    print(report(points))
    if args.figure:
        draw(points, args.figure)


if __name__ == '__main__':
    main()
