"""Branch designs as data: for every tap, which stages follow, how deep and how wide."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from .taps import resolve_taps


@dataclass(frozen=True)
class BranchSpec:
    """One branch, resolved for a network.

    Attributes:
        tap: Index into the backbone's `feature_info`.
        depths: Blocks of each stage that follows, from the one after the tap to the last.
        widths: Factor on the width of each of them.
    """

    tap: int
    depths: tuple
    widths: tuple[float, ...]


# Blocks (early, late) where DKS's networks differ from the rule in `dks_blocks`; by network class and its blocks.
# WRN-28-10 and every CIFAR list equal DHM's released code, the stand-in for the DKS supplement.
DKS_BLOCKS = {
    ('CifarResNet', (18, 18, 18)): ((9, 9), (18,)),
    ('CifarResNet', (200, 200, 200)): ((100, 100), (200,)),
    ('CifarResNet', (2, 2, 2, 2)): ((1, 2), (2,)),
    ('CifarResNet', (3, 4, 6, 3)): ((3, 2), (3,)),
    ('CifarDenseNet', (32, 32, 32)): ((16, 16), (32,)),
    ('CifarDenseNet', (16, 16, 16)): ((16, 16), (32,)),
}
LATE_WIDTH = {'CifarDenseNet': 3.0}
ROUND_DOWN = {'CifarWRN'}


def _half(depth, down: bool):
    if isinstance(depth, tuple):
        return tuple(_half(d, down) for d in depth)
    return max(1, depth // 2) if down else (depth + 1) // 2


def dks_blocks(family: str, depths: tuple) -> tuple[tuple, tuple]:
    """Blocks of DKS's early and late branch for a network of class `family` with `depths` blocks a stage.

    The rule: early has n blocks of the last stage but one and half as many (rounded up; WRN: down) of the last; late
    has n of the last. The exceptions are in `DKS_BLOCKS`.
    """
    if (family, depths) in DKS_BLOCKS:
        return DKS_BLOCKS[family, depths]
    return (depths[-2], _half(depths[-1], family in ROUND_DOWN)), (depths[-1],)


def dks_design(backbone: nn.Module, taps: Sequence[int | str] | None = None) -> list[BranchSpec]:
    """DKS's two branches, or those of the taps named (DKS, section 4.1; sizes from DHM's code).

    Late leaves the last stage but one and repeats the last stage at double width (DenseNet: triple growth); early
    leaves one stage before and repeats both. A shallower tap repeats the stages between with their own blocks first.
    """
    if not hasattr(backbone, 'make_stage'):
        raise ValueError(f"design 'dks' has no block list for {type(backbone).__name__}")
    family, depths = type(backbone).__name__, tuple(backbone.stage_depths)
    last = len(depths) - 1
    early, late = dks_blocks(family, depths)
    specs = []
    for tap in resolve_taps(backbone, (last - 2, last - 1) if taps is None else taps):
        if tap == last - 1:
            specs.append(BranchSpec(tap, late, (LATE_WIDTH.get(family, 2.0),)))
        else:
            blocks = depths[tap + 1 : last - 1] + early
            specs.append(BranchSpec(tap, blocks, (1.0,) * len(blocks)))
    return specs


DESIGNS = {'dks': dks_design}
