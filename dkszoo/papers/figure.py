"""The curves of a reproduction, one panel per group of rows."""

import csv
import math
import textwrap
from pathlib import Path

from dkszoo.engine.curves import png, write_picture

from .grid import Result
from .report import measure, network
from .reproduce import Plan

COLUMNS = 4


def draw_groups(plans: list[Plan], results: dict[str, Result], path: Path) -> None:
    """Draw each row's error in percent against the epochs, the mean over the seeds.

    The error is that on the images the best epoch is chosen on. Of several temperatures, the one in the report is
    drawn; teachers are left out. Does nothing without matplotlib.

    Args:
        plans: The rows; those without finished runs are left out.
        results: The finished runs, by name.
        path: The PNG file to write.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator
    except ImportError:
        return
    groups: dict[str, list[tuple[str, list[float]]]] = {}
    titles = {}
    for plan in (plan for plan in plans if not plan.record.row.endswith('-teacher')):
        lines = groups.setdefault(plan.record.group, [])
        titles.setdefault(plan.record.group, f'{plan.record.group}: {network(plan)}')
        if measured := measure(plan, results):
            name = plan.record.row + (f' (T={measured.temperature})' if measured.temperature else '')
            folders = [run.folder for run in measured.runs.values()]
            lines.append((name, mean_errors(folders, plan.record.metric.removesuffix('_err'))))
    groups = {name: found for name, lines in groups.items() if (found := [line for line in lines if line[1]])}
    if not groups:
        return
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes, (name, lines) in zip(panels, groups.items(), strict=False):
        for row, errors in lines:
            label = row.replace('-top5', '').removeprefix(f'{name.removesuffix("-top5")}-')
            axes.plot(range(1, len(errors) + 1), errors, label=label, marker='.')
        if all(error > 0 for _, errors in lines for error in errors):
            axes.set_yscale('log')  # the final differences are small beside the initial errors
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
            axes.yaxis.set_major_formatter('{x:g}')
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set(xlabel='epoch', ylabel='top-5 error (%)' if name.endswith('top5') else 'error (%)')
        axes.set_title(textwrap.fill(titles[name], 48), fontsize='small')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
    write_picture(lambda: png(figure, dpi=100), path)


def mean_errors(folders: list[Path], metric: str) -> list[float]:
    """Error (100 minus the metric) after each epoch, averaged over finished runs of equal length; empty without any.

    Raises:
        ValueError: A summary.csv is damaged.
    """
    runs = []
    for folder in folders:
        path = folder / 'summary.csv'
        with open(path, newline='', encoding='utf-8') as file:
            rows = csv.DictReader(file)
            try:
                runs.append([100 - float(row.get(f'eval_{metric}') or row[f'eval_test_{metric}']) for row in rows])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f'{str(path)!r} is damaged (remove its folder, and the run is repeated)') from error
    return [math.fsum(values) / len(values) for values in zip(*runs, strict=True)]
