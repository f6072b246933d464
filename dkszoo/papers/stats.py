"""Means, spreads and paired intervals of a few runs."""

import math
from collections.abc import Sequence

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the latter from a single run."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def paired_gain(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the differences, seed by seed, and the half width of its 95 % interval (Student's t).

    Raises:
        ValueError: The two do not pair up.
    """
    if len(values) != len(baseline):
        raise ValueError(f'{len(values)} values do not pair with {len(baseline)}')
    mean, std = mean_std([v - b for v, b in zip(values, baseline, strict=True)])
    if std is None:
        return mean, None
    return mean, T975[min(len(values) - 1, len(T975)) - 1] * std / math.sqrt(len(values))


def show(value: float, spread: float | None) -> str:
    """'26.81(0.36)', or '26.81' where there is no spread."""
    return f'{value:.2f}' if spread is None else f'{value:.2f}({spread:.2f})'


def show_gain(values: Sequence[float], baseline: Sequence[float]) -> str:
    """'+0.35 +- 0.29', see `paired_gain`, or '+0.35' from a single run."""
    mean, width = paired_gain(values, baseline)
    return f'{mean:+.2f}' if width is None else f'{mean:+.2f} +- {width:.2f}'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for reading as text."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        lines.append('| ' + ' | '.join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)) + ' |')
    return '\n'.join([lines[0], '|' + '|'.join('-' * (w + 2) for w in widths) + '|', *lines[1:]])
