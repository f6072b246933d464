"""Branch designs as data: for each tap, the stages that follow, their depths and widths, and the head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .mirror import check_mirror
from .probe import Probe
from .stages import OwnStages
from .taps import default_taps, resolve_taps


@dataclass(frozen=True)
class BranchSpec:
    """One branch, resolved for a network.

    Attributes:
        tap: Index into the backbone's `feature_info`.
        kind: Kind of blocks in the stages, a name in `KINDS`.
        stages: (blocks, width factor) of each stage that follows; empty for the kinds that need none.
        head: 'fc', or '2fc' with as many hidden units as the tap has channels.
    """

    tap: int
    kind: str = 'own'
    stages: tuple[tuple, ...] = ()
    head: str = 'fc'


# Kinds of stages, and whether the branch's down-samplings must be checked against the main path's. Pooled heads are
# exempt; a mirror is the main path itself.
KINDS = {
    'own': True,  # the backbone's own blocks, at any depth and width
    'conv': True,  # residual 3x3 convolutions; at least one block per down-sampling
    'sepconv': True,  # BYOT's: attention, then separable convolutions
    'conv3x3': False,  # one 3x3 convolution per block, no down-sampling
    'mirror': False,  # the rest of the main path, freshly initialised
    'none': False,  # straight to the head
}
HEADS = ('fc', '2fc')

# Blocks (early, late) of DKS's networks that differ from the rule in `dks_blocks`, by family and blocks per stage.
# WRN-28-10 and every CIFAR list equal DHM's released code, the stand-in for the DKS supplement.
RESNETS = {
    (3, 4, 6, 3): ((3, 2), (3,)),
    (3, 4, 23, 3): ((12, 2), (3,)),
    (3, 8, 36, 3): ((18, 2), (3,)),
}
DKS_BLOCKS = {
    ('CifarResNet', (2, 2, 2, 2)): ((1, 2), (2,)),  # with bottlenecks the same depths are ResNet-26
    ('ResNet', (2, 2, 2, 2)): ((1, 2), (2,)),
    **{
        (family + block, depths): blocks
        for family in ('CifarResNet', 'ResNet')
        for block in ('', '.Bottleneck')
        for depths, blocks in RESNETS.items()
    },
    ('CifarResNet', (18, 18, 18)): ((9, 9), (18,)),
    ('CifarResNet', (200, 200, 200)): ((100, 100), (200,)),
    ('CifarDenseNet', (32, 32, 32)): ((16, 16), (32,)),
    ('CifarDenseNet.Bottleneck', (16, 16, 16)): ((16, 16), (32,)),
    ('CifarDenseNet.Bottleneck', (31, 31, 31)): ((16, 16), (31,)),
    ('CifarDenseNet.Bottleneck', (41, 41, 41)): ((22, 22), (41,)),
}
LATE_WIDTH = {'CifarDenseNet': 3.0, 'CifarDenseNet.Bottleneck': 3.0}
ROUND_DOWN = {'CifarWRN'}


def _half(depth, down: bool):
    if isinstance(depth, tuple):
        return tuple(_half(d, down) for d in depth)
    return max(1, depth // 2) if down else (depth + 1) // 2


def dks_blocks(family: str, depths: tuple) -> tuple[tuple, tuple]:
    """Blocks of DKS's early and late branch for a network of `family` with `depths` blocks per stage.

    The rule, with n the blocks of the repeated stage: early has n of the second-to-last stage and n/2 (rounded up; WRN:
    down) of the last; late has n of the last. The exceptions are in `DKS_BLOCKS`.
    """
    if (family, depths) in DKS_BLOCKS:
        return DKS_BLOCKS[family, depths]
    return (depths[-2], _half(depths[-1], family in ROUND_DOWN)), (depths[-1],)


def dks_design(probe: Probe, taps: Sequence[int]) -> list[BranchSpec]:
    """DKS's two branches, or those at the given taps (DKS, section 4.1; sizes from DHM's code).

    Late leaves the second-to-last stage and repeats the last at double width (DenseNet: triple growth); early leaves
    one stage before and repeats the last two. A shallower tap first repeats the stages between with their own blocks.
    """
    own = probe.own
    early, late = dks_blocks(own.family, own.depths)
    last = len(own.depths) - 1
    specs = []
    for tap in taps:
        stage = stage_of(probe, own, tap)
        if stage == last - 1:
            blocks, width = late, LATE_WIDTH.get(own.family, 2.0)
        else:
            blocks, width = own.depths[stage + 1 : last - 1] + early, 1.0
        specs.append(BranchSpec(tap, 'own', tuple((b, width) for b in blocks)))
    return specs


def stage_of(probe: Probe, own: OwnStages, tap: int) -> int:
    """The stage a tap follows.

    Raises:
        ValueError: The tap lies before the first stage.
    """
    if tap < own.first:
        name, first = probe.info[tap]['module'], probe.info[own.first]['module']
        raise ValueError(f'tap {name!r} lies before the first stage (the shallowest tap with stages is {first!r})')
    return tap - own.first


def altered(change: Callable) -> Callable[[Probe, Sequence[int]], list[BranchSpec]]:
    """DKS Table 3, other sizes of the blocks: `dks` with `change(blocks, width)` for every stage."""
    return lambda probe, taps: [
        BranchSpec(spec.tap, 'own', tuple(change(*stage) for stage in spec.stages)) for spec in dks_design(probe, taps)
    ]


def one_block(blocks: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """One block, or one per row if the stage has several."""
    return (1,) * len(blocks) if isinstance(blocks, tuple) else 1


def mirror_design(probe: Probe, taps: Sequence[int]) -> list[BranchSpec]:
    """DSKD, section 3.1: each branch is the rest of the main path, of the same depth and width."""
    check_mirror(probe, taps)
    return [BranchSpec(tap, 'mirror') for tap in taps]


def falling(kind: str) -> Callable[[Probe, Sequence[int]], list[BranchSpec]]:
    """One block of this kind per down-sampling, as wide as the main path at that resolution."""

    def design(probe: Probe, taps: Sequence[int]) -> list[BranchSpec]:
        if probe.halvings(0, len(probe.info) - 1) < 1:
            raise ValueError('all its stages have one resolution')
        return [BranchSpec(tap, kind, tuple((max(1, down), 1.0) for _, down in probe.following(tap))) for tap in taps]

    return design


def pooled(kind: str, stages: tuple, head: str) -> Callable[[Probe, Sequence[int]], list[BranchSpec]]:
    """The same stages, pool and head at every tap, whatever follows it in the main path."""
    return lambda probe, taps: [BranchSpec(tap, kind, stages, head) for tap in taps]


# Those of AUTO stand first, richest first: `auto` takes the first that works.
DESIGNS = {
    'dks': dks_design,
    'mirror': mirror_design,
    'conv': falling('conv'),
    'linear': pooled('none', (), 'fc'),
    'narrow': altered(lambda blocks, width: (blocks, width / 2)),
    'shallow': altered(lambda blocks, width: (one_block(blocks), width)),
    'ap_conv_2fc': pooled('conv3x3', ((1, 2.0),), '2fc'),
    'ap_2fc': pooled('none', (), '2fc'),
    'bottleneck': falling('sepconv'),
}
AUTO = ('dks', 'mirror', 'conv', 'linear')
# BYOT has a branch after every stage but the last; the others follow DKS.
NUM_TAPS = {'bottleneck': 3}


def named_design(name: str, probe: Probe, taps: Sequence[int | str] | int | str | None) -> list[BranchSpec]:
    """The branches of a design for a network.

    Raises:
        ValueError: No such tap, or the design cannot work here (with the reason).
    """
    found = default_taps(probe.backbone, NUM_TAPS.get(name, 2)) if taps is None else resolve_taps(probe.backbone, taps)
    try:
        return DESIGNS[name](probe, found)
    except ValueError as error:
        kind = type(probe.backbone).__name__
        raise ValueError(
            f"design {name!r} cannot work for {kind}: {error} ('linear' works for any, "
            'dkszoo.list_designs names all that can)'
        ) from error
