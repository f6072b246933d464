"""curves.png: the error of every head over the epochs."""

import logging
from pathlib import Path

from dkszoo.weights import write_durably

_logger = logging.getLogger(__name__)


def draw_curves(history: list[dict], path: Path) -> None:
    """Draw training and validation error (100 - top-1, in percent); says so and draws nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _logger.info("no curves.png: matplotlib is not installed (pip install 'dkszoo[demo]')")
        return
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    epochs = [row['epoch'] + 1 for row in history]
    marker = '.' if len(epochs) < 40 else None

    def draw(values: list, label: str, **style) -> None:
        points = [(epoch, 100 - value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, **style)

    draw([row['train'].get('top1') for row in history], 'main head, training', color='0.6', linestyle='--')
    names = list(dict.fromkeys(key for row in history for key in row['eval'] if key.endswith('top1')))
    for name in sorted(names, key=lambda name: ('branch' in name, name)):
        head = name.removeprefix('test_').removesuffix('top1').rstrip('_')
        part = 'test' if name.startswith('test_') else 'validation'
        label = f'branch {head[6:]}' if head else 'main head'
        draw([row['eval'].get(name) for row in history], f'{label}, {part}', linewidth=1.0 if head else 2.0)
    axes.set(xlabel='epoch', ylabel='error (%)', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    write_durably(path, lambda temporary: figure.savefig(temporary, format='png', dpi=120))
