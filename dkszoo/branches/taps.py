"""Taps: the stage outputs where branches leave, given by `feature_info` index or module name."""

import re
from collections.abc import Sequence

from torch import nn


def feature_list(backbone: nn.Module) -> list[dict]:
    """The backbone's `feature_info` as a plain list of dicts (num_chs, reduction, module), shallow to deep.

    Raises:
        ValueError: The network has no `feature_info` or no `forward_intermediates`, has branches, or is compiled.
    """
    if hasattr(backbone, '_orig_mod'):
        raise ValueError('the network is compiled (attach branches to the network itself, then compile the task)')
    if hasattr(backbone, 'branches') and hasattr(backbone, 'backbone'):
        raise ValueError(f'the {type(backbone.backbone).__name__} has branches already (dkszoo.strip removes them)')
    info = getattr(backbone, 'feature_info', None)
    if info is None or not hasattr(backbone, 'forward_intermediates') or not hasattr(backbone, 'forward_head'):
        raise ValueError(
            f'{type(backbone).__name__} cannot carry branches: it lacks feature_info, forward_intermediates or '
            'forward_head (use a timm classifier, or add them: docs/own_loop.md)'
        )
    return info.get_dicts() if hasattr(info, 'get_dicts') else list(info)


def resolve_taps(backbone: nn.Module, taps: Sequence[int | str] | int | str) -> tuple[int, ...]:
    """Feature indices of `taps`, ascending.

    Args:
        backbone: A timm-style classifier.
        taps: One or more indices into `feature_info` (negative ones count from the end) or module names.

    Raises:
        ValueError: No taps, or one that does not exist, is given twice, or is the last stage, where the main head is.
    """
    info = feature_list(backbone)
    names = [f['module'] for f in info]
    taps = taps.tolist() if hasattr(taps, 'tolist') else taps  # arrays and tensors
    taps = [taps] if isinstance(taps, int | str) else list(taps)
    indices = []
    for tap in taps:
        if isinstance(tap, str) and re.fullmatch('-?[0-9]+', tap):
            tap = int(tap)
        index = names.index(tap) if tap in names else tap
        if not isinstance(index, int) or isinstance(index, bool) or not -len(info) <= index < len(info):
            valid = ', '.join(f'{i} = {n}' for i, n in enumerate(names[:-1]))
            raise ValueError(f'no tap {tap!r} in {type(backbone).__name__} (taps: {valid})')
        indices.append(index % len(info))
    if not indices:
        raise ValueError('taps is empty (name at least one stage, or leave taps out for the default)')
    if len(set(indices)) != len(indices):
        raise ValueError(f'taps name a stage twice: {taps} (name each stage once)')
    if len(info) - 1 in indices:
        raise ValueError(f'tap {names[-1]!r} is the last stage, where the main head is (choose a shallower one)')
    return tuple(sorted(indices))


def default_taps(backbone: nn.Module, count: int = 2) -> tuple[int, ...]:
    """The default taps: the deepest stage of each of the `count` resolutions before the last.

    In dkszoo's networks they are the `count` stages before the last, as in the papers (a DenseNet's last two stages
    share a resolution). If all resolutions are equal (ViT), they lie after one and two thirds of the depth.

    Raises:
        ValueError: The network has only one stage, or cannot carry branches (see `feature_list`).
    """
    info = feature_list(backbone)
    last = len(info) - 1
    if last < 1:
        raise ValueError(f'{type(backbone).__name__} has only one stage, so no tap before the last')
    if hasattr(backbone, 'make_stage'):
        return tuple(range(max(0, last - count), last))
    reductions = [entry['reduction'] for entry in info]
    deepest = [i for i in range(last) if reductions[i] != reductions[i + 1]]
    if not deepest:
        return tuple(sorted({max(0, len(info) * third // 3 - 1) for third in (1, 2)}))
    return tuple(deepest[-count:])
