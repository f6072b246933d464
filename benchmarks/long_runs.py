"""Curves of long runs on whole data sets: validation error against epochs, mean and range over the seeds.

    python -m benchmarks.long_runs docs/results/fashion_mnist_65_epochs/runs curves.png

One panel per network and fraction of wrong labels, from NAME.json (a run's run.json) and NAME.csv (its summary.csv).
"""

import argparse
import csv
import json
from pathlib import Path

from dkszoo.papers.stats import mean_std

ORDER = ('baseline', 'ds', 'dks', 'kd', 'dskd')


def read_curves(folder: Path) -> dict[tuple[str, float], dict[tuple[int, int], list[list[float]]]]:
    """Errors of all runs in percent, by (network, fraction of wrong labels), then by (index in `ORDER`, epochs)."""
    panels: dict[tuple[str, float], dict[tuple[int, int], list[list[float]]]] = {}
    for path in sorted(folder.glob('*.json')):
        settings = json.loads(path.read_text(encoding='utf-8'))['settings']
        with open(path.with_suffix('.csv'), newline='', encoding='utf-8') as file:
            errors = [100 - float(row['eval_top1']) for row in csv.DictReader(file)]
        curves = panels.setdefault((settings['model'], settings['label_noise']), {})
        curves.setdefault((ORDER.index(settings['method']), settings['epochs']), []).append(errors)
    return panels


def draw(folder: Path, path: Path) -> None:
    from matplotlib.figure import Figure

    panels = read_curves(folder)
    best: dict[float, float] = {}  # of each fraction of wrong labels, whose panels have the same axis
    for (_, noise), curves in panels.items():
        lowest = min(min(map(sum, zip(*runs, strict=True))) / len(runs) for runs in curves.values())
        best[noise] = min(best.get(noise, lowest), lowest)
    figure = Figure(figsize=(10, 3.5 * ((len(panels) + 1) // 2)), layout='constrained')
    for place, ((model, noise), curves) in enumerate(sorted(panels.items(), key=lambda item: item[0][::-1]), start=1):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, place)
        for (method, epochs), runs in sorted(curves.items()):
            points, at = list(zip(*runs, strict=True)), range(1, epochs + 1)
            color = 'C7' if method == 0 and epochs > min(length for _, length in curves) else f'C{method}'
            axes.plot(
                at, [mean_std(p)[0] for p in points], lw=1.3, color=color, label=f'{ORDER[method]}, {epochs} epochs'
            )
            axes.fill_between(at, [min(p) for p in points], [max(p) for p in points], alpha=0.13, color=color, lw=0)
        axes.set(xlabel='epoch', ylabel='validation error (%)', ylim=(0.85 * best[noise], 2.8 * best[noise]))
        axes.set_title(model + (f', {100 * noise:g} % wrong labels' if noise else ''), fontsize='medium')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small', loc='upper right')
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('folder', type=Path, help='folder of the records')
    parser.add_argument('figure', type=Path, metavar='PNG', help='the figure to write')
    args = parser.parse_args()
    draw(args.folder, args.figure)


if __name__ == '__main__':
    main()
