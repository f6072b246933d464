"""Building branches onto a backbone."""

import difflib
import logging
from collections.abc import Sequence

from timm.layers import ClassifierHead
from torch import nn

from .designs import DESIGNS, BranchSpec
from .supervised import Branch, DeeplySupervised
from .taps import feature_list

_logger = logging.getLogger(__name__)


def build_branch(backbone: nn.Module, spec: BranchSpec, num_classes: int) -> Branch:
    """One freshly initialised branch of the backbone's own kind of stages, on the backbone's device."""
    chs = feature_list(backbone)[spec.tap]['num_chs']
    stages = []
    for i, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        stage, chs = backbone.make_stage(spec.tap + 1 + i, chs, depth, width)
        stages.append(stage)
    norm, chs = backbone.make_norm(chs)
    weight = next(backbone.parameters())
    drop_rate = float(getattr(backbone, 'drop_rate', 0.0))
    head = ClassifierHead(chs, num_classes, drop_rate=drop_rate, device=weight.device, dtype=weight.dtype)
    return Branch(nn.Sequential(*stages), norm, head).train(backbone.training)


def attach_branches(
    backbone: nn.Module,
    design: str = 'auto',
    taps: Sequence[int | str] | int | str | None = None,
    num_classes: int | None = None,
) -> DeeplySupervised:
    """Give a classifier training-only branches.

    Args:
        backbone: A timm-style classifier; held, not copied, and not changed.
        design: 'dks', or 'auto' for the richest design that works here.
        taps: Where branches leave: `feature_info` indices or module names; default: the two deepest resolutions
            before the final one.
        num_classes: Classes of the branch heads; default: the backbone's.

    Returns:
        The network with branches; `strip` gives the backbone back.

    Raises:
        ValueError: Unknown design or tap, a design that cannot work here, or no classes to learn.
    """
    feature_list(backbone)  # says what is missing where the network cannot carry branches
    num_classes = backbone.num_classes if num_classes is None else num_classes
    if num_classes < 1:
        raise ValueError('branches need classes to learn, num_classes is 0 (give num_classes)')
    if design == 'auto':
        design = 'dks'
        _logger.info('branches: design %s for %s', design, type(backbone).__name__)
    if design not in DESIGNS:
        near = difflib.get_close_matches(design, DESIGNS, 1)
        raise ValueError(f'unknown design {design!r} (designs: {", ".join(near or ["auto", *DESIGNS])})')
    specs = DESIGNS[design](backbone, taps)
    branches = [build_branch(backbone, spec, num_classes) for spec in specs]
    return DeeplySupervised(backbone, branches, [spec.tap for spec in specs], design=design)
