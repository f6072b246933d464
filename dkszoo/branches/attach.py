"""Attaching branches to a backbone."""

import difflib
import logging
import warnings
from collections.abc import Sequence

import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from .build import build_branch, check_halvings
from .designs import AUTO, DESIGNS, BranchSpec, named_design
from .probe import Probe, skeleton
from .supervised import DeeplySupervised
from .user_design import is_text_or_file, read_specs, write_specs

_logger = logging.getLogger(__name__)


def attach_branches(
    backbone: nn.Module,
    design: str | dict = 'auto',
    taps: Sequence[int | str] | int | str | None = None,
    num_classes: int | None = None,
    strict: bool = True,
) -> DeeplySupervised:
    """Give a classifier training-only branches.

    The backbone is inspected through a copy without values, so nothing in it changes, and it may be on the meta device.

    Args:
        backbone: A timm-style classifier; held, not copied.
        design: A name in `DESIGNS`; 'auto' for the first of dks, mirror, conv and linear that works here; or a custom
            design, see docs/branches.md.
        taps: Where branches leave: `feature_info` indices or module names. Default: the two deepest resolutions
            before the final one; in dkszoo's own networks the two stages before the last (`bottleneck`: three); in
            networks with a single resolution a third and two thirds of the way.
        num_classes: Classes of the branch heads; default: the backbone's.
        strict: Reject branches whose path has more or fewer down-samplings than the main one; False: only warn.

    Returns:
        The network with branches; `strip` gives the backbone back.

    Raises:
        ValueError: Unknown design or tap, a design that cannot work here (with the reason), or no classes to learn.
    """
    probe = Probe(backbone)
    num_classes = backbone.num_classes if num_classes is None else num_classes
    if num_classes < 1:
        raise ValueError('branches need classes to learn, num_classes is 0 (give num_classes)')
    if isinstance(design, dict):
        specs = read_specs(design, probe, taps)
        record = write_specs(specs, design.get('name'))
        branches = build(probe, specs, num_classes, strict)
    else:
        record, specs, branches = build_named(probe, design, taps, num_classes, strict)
    if any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules()):
        branches = [convert_sync_batchnorm(branch) for branch in branches]
    return DeeplySupervised(backbone, branches, [spec.tap for spec in specs], design=record)


def build(probe: Probe, specs: list[BranchSpec], num_classes: int, strict: bool) -> list[nn.Module]:
    """Build all branches and check them against the papers' rule."""
    branches = [build_branch(probe, spec, num_classes) for spec in specs]
    for spec, branch in zip(specs, branches, strict=True):
        try:
            check_halvings(probe, spec, branch)
        except ValueError as error:
            if strict:
                raise
            warnings.warn(str(error), stacklevel=3)
    return branches


def build_named(probe: Probe, name: str, taps, num_classes: int, strict: bool):
    """Build the design `name`, or the first of AUTO that works; returns (name, specs, branches)."""
    if name != 'auto':
        if name not in DESIGNS:
            near = difflib.get_close_matches(str(name), DESIGNS, 2)
            hint = f'did you mean {" or ".join(near)}? ' if near else ''
            if is_text_or_file(str(name)):
                hint = 'create_model(branches=) takes a file or a text, attach_branches its contents as a dict; '
            raise ValueError(f'unknown design {name!r} ({hint}designs: {", ".join(["auto", *DESIGNS])})')
        specs = named_design(name, probe, taps)
        return name, specs, build(probe, specs, num_classes, strict)
    reasons = []
    for name in AUTO:
        try:
            specs = named_design(name, probe, taps)
            branches = build(probe, specs, num_classes, strict)
        except ValueError as error:
            reasons.append(error)
            continue
        names = ', '.join(probe.info[spec.tap]['module'] for spec in specs)
        level, why = (logging.WARNING, f', as {reasons[-1].__cause__}') if probe.cannot_run else (logging.INFO, '')
        _logger.log(level, 'branches: design %s for %s, at %s%s', name, type(probe.backbone).__name__, names, why)
        return name, specs, branches
    raise reasons[-1]


def list_designs(model: str | nn.Module) -> list[str]:
    """Names of the designs that work for a network: those that `auto` tries, richest first, then the others.

    Args:
        model: A name known to timm (importing dkszoo makes ours known), or a classifier; it is not changed.

    Raises:
        ValueError: No such name, or the network cannot carry branches at all.
    """
    probe = Probe(empty_model(model) if isinstance(model, str) else skeleton(model))
    found = []
    for name in DESIGNS:
        try:
            specs = [spec for spec in named_design(name, probe, None) if spec.kind in ('conv', 'sepconv')]
            build(probe, specs, probe.backbone.num_classes, strict=True)  # the rest fit by construction
        except ValueError:
            continue
        found.append(name)
    return found


def empty_model(name: str, **kwargs) -> nn.Module:
    """A model by name, on the meta device.

    Raises:
        ValueError: No such name (names the nearest), or no such tag.
    """
    arch = timm.models.split_model_name_tag(name)[0]
    if not timm.is_model(arch):
        ours = [f'cifar_{arch}'] if timm.is_model(f'cifar_{arch}') else []  # other projects use no prefix
        near = ours or difflib.get_close_matches(arch, timm.list_models(), 3)
        hint = f'did you mean {" or ".join(near)}?' if near else 'dkszoo models lists ours'
        raise ValueError(f'unknown model {name!r} ({hint})')
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f'model {arch!r} has no such tag: {name!r} (dkszoo.list_models names ours)') from error
    with torch.device('meta'):
        return timm.create_model(name, pretrained=False, **kwargs)
