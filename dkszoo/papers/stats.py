"""Means, spreads and paired intervals of a few runs."""

import math
import statistics
from collections.abc import Mapping, Sequence

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
T975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for a single run)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_gain(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the differences per seed, and the half width of its 95 % interval.

    It is that of Student's t, beyond 31 seeds with the quantile for 31, which is a little wider; None for one seed.
    """
    mean, std = mean_std([v - b for v, b in zip(values, baseline, strict=True)])
    if std is None:
        return mean, None
    return mean, T975[min(len(values) - 1, len(T975)) - 1] * std / math.sqrt(len(values))


def show(value: float, spread: float | None) -> str:
    """'26.81(0.36)', or '26.81' without a spread."""
    return f'{value:.2f}' if spread is None else f'{value:.2f}({spread:.2f})'


def show_gain(values: Sequence[float], baseline: Sequence[float]) -> str:
    """'+0.35 +- 0.29', see `paired_gain`, or '+0.35' for a single run."""
    mean, width = paired_gain(values, baseline)
    return f'{mean:+.2f}' if width is None else f'{mean:+.2f} +- {width:.2f}'


def gain_by_seed(values: Mapping[int, float], baseline: Mapping[int, float]) -> str:
    """`show_gain` on the seeds both have, with their number if it is not that of all; '' if there are none."""
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return ''
    gain, total = show_gain([values[s] for s in seeds], [baseline[s] for s in seeds]), max(len(values), len(baseline))
    return gain if len(seeds) == total else f'{gain} ({len(seeds)} of {total})'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with columns aligned for reading as plain text."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        lines.append('| ' + ' | '.join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)) + ' |')
    return '\n'.join([lines[0], '|' + '|'.join('-' * (w + 2) for w in widths) + '|', *lines[1:]])
