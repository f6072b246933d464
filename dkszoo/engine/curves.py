"""curves.png: the error of every head over the epochs."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

from dkszoo.weights import first_line, write_durably

_logger = logging.getLogger(__name__)


def draw_curves(history: list[dict], path: Path, title: str, best_epoch: int) -> None:
    """Draw the training, validation and test errors (100 - top-1, in percent); logs the reason if it cannot.

    Args:
        history: One row per epoch.
        path: The PNG file to write.
        title: Title of the figure.
        best_epoch: The epoch to mark, from 0.
    """
    write_picture(lambda: draw(history, title, best_epoch), path)


def write_picture(render: Callable[[], bytes], path: Path) -> None:
    """Write the PNG that `render` returns; logs the reason if it cannot."""
    try:
        picture = render()
    except ImportError:
        _logger.info("no %s: matplotlib is not installed (pip install 'dkszoo[demo]')", path.name)
    except Exception as error:  # the user's matplotlib settings, or a title it cannot render
        _logger.warning('no %s: %s', path.name, first_line(error))
    else:
        write_durably(path, lambda temporary: temporary.write_bytes(picture))


def draw(history: list[dict], title: str, best_epoch: int) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    epochs = [row['epoch'] + 1 for row in history]
    marker = '.' if len(epochs) < 40 else None

    def add(values: list, label: str, **style) -> None:
        points = [(epoch, 100 - value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, **style)

    heads = list(dict.fromkeys(key for row in history for key in row['train'] if key.endswith('top1')))
    colors = {name: f'C{i}' for i, name in enumerate(sorted(heads, key=lambda name: ('branch' in name, name)))}
    for name, color in colors.items():
        label, width = (f'branch {name[6:].partition("_")[0]}', 1.0) if 'branch' in name else ('main head', 2.0)
        add([row['train'].get(name) for row in history], f'{label}, training', color=color, ls='--', lw=width)
        for part, key in (('validation', name), ('test', f'test_{name}')):
            style = dict(color=color, ls='-' if part == 'validation' else ':', lw=width)
            add([row['eval'].get(key) for row in history], f'{label}, {part}', **style)
    axes.axvline(best_epoch + 1, color='0.6', lw=0.8, label='best epoch')
    axes.set(xlabel='epoch', ylabel='top-1 error (%)', ylim=(0, None))
    axes.set_title(title, parse_math=False)  # a folder's name may contain a $
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    return png(figure, dpi=120)


def png(figure, dpi: int) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=dpi)
    return picture.getvalue()
