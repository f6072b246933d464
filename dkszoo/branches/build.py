"""Building modules from the data of a design."""

import math

import torch
from timm.layers import ClassifierHead
from torch import nn

from .branch import Branch, MirrorBranch
from .designs import KINDS, BranchSpec, stage_of
from .mirror import build_mirror
from .parts import Attention, ConvNormAct, ResidualConv, SepConv, TwoLayerHead
from .probe import Probe, count_halvings, skeleton

# Some networks end in 2048 or 4320 channels; dense 3x3 convolutions of that width would dwarf the network itself. A
# ResNet-50 has 512 inside its last blocks.
MAX_CONV_CHS = 512


def build_branch(probe: Probe, spec: BranchSpec, num_classes: int) -> Branch | MirrorBranch:
    """Build a freshly initialised branch, on the backbone's device and in its mode.

    Raises:
        ValueError: The network cannot have it (with the reason).
    """
    if spec.kind == 'mirror':
        return build_mirror(probe, spec.tap, num_classes)
    backbone = probe.backbone
    tap_chs = probe.info[spec.tap]['num_chs']
    weight = next(backbone.parameters())
    dd = dict(device=weight.device, dtype=weight.dtype)
    stages, norm, chs = MAKERS[spec.kind](probe, spec, tap_chs, dd)
    drop_rate = float(getattr(backbone, 'drop_rate', 0.0))
    if spec.head == '2fc':
        head = TwoLayerHead(chs, tap_chs, num_classes, drop_rate, dd)
    else:
        head = ClassifierHead(chs, num_classes, drop_rate=drop_rate, **dd)
    return Branch(nn.Sequential(*stages), norm, head).train(backbone.training)


def _own(probe: Probe, spec: BranchSpec, chs: int, dd: dict):
    own = probe.own
    first = stage_of(probe, own, spec.tap) + 1
    left = len(own.depths) - first
    if len(spec.stages) > left:
        raise ValueError(f'{len(spec.stages)} stages after tap {tap_name(probe, spec)!r}, which only {left} follow')
    stages = []
    for i, (blocks, width) in enumerate(spec.stages):
        like = own.depths[first + i]
        if num_rows(blocks) != num_rows(like):
            raise ValueError(f'blocks {blocks} for a stage that has {like} (give one number for each of its rows)')
        stage, chs = own.make_stage(first + i, chs, blocks, width)
        stages.append(stage)
    norm, chs = own.make_norm(chs)
    return stages, norm, chs


def _falling(probe: Probe, spec: BranchSpec, chs: int, block: type[nn.Module], dd: dict, max_chs: float):
    """Blocks with the main path's resolutions and widths; the first blocks of a stage halve the map."""
    following = probe.following(spec.tap)
    if len(spec.stages) > len(following):
        raise ValueError(
            f'{len(spec.stages)} stages after tap {tap_name(probe, spec)!r}, which {len(following)} resolutions follow'
        )
    stages = []
    for (blocks, width), (main_chs, down) in zip(spec.stages, following, strict=False):
        check_number(blocks)
        if blocks < down:
            raise ValueError(f'blocks {blocks} are too few for {down} down-samplings in one stage')
        for i in range(blocks):
            out_chs = max(1, round(min(main_chs, max_chs) * width))
            stages.append(block(chs, out_chs, 2 if i < down else 1, dd))
            chs = out_chs
    return stages, nn.Identity(), chs


def _conv(probe, spec, chs, dd):
    return _falling(probe, spec, chs, ResidualConv, dd, MAX_CONV_CHS)


def _sepconv(probe, spec, chs, dd):
    stages, norm, out_chs = _falling(probe, spec, chs, SepConv, dd, math.inf)
    return [Attention(chs, dd), *stages], norm, out_chs


def _conv3x3(probe, spec, chs, dd):
    tap_chs, stages = chs, []
    for blocks, width in spec.stages:
        check_number(blocks)
        for _ in range(blocks):
            out_chs = max(1, round(tap_chs * width))
            stages.append(ConvNormAct(chs, out_chs, dd))
            chs = out_chs
    return stages, nn.Identity(), chs


def _none(probe, spec, chs, dd):
    return [], nn.Identity(), chs


# kind -> (probe, spec, tap channels, dict of device and dtype) -> (stages, norm, output channels)
MAKERS = {'own': _own, 'conv': _conv, 'sepconv': _sepconv, 'conv3x3': _conv3x3, 'none': _none}


def check_number(blocks: int | tuple) -> None:
    if isinstance(blocks, tuple):
        raise ValueError(f'blocks {blocks} for a stage of convolutions, which has no rows (give one number)')


def num_rows(blocks: int | tuple) -> int | None:
    return len(blocks) if isinstance(blocks, tuple) else None


def tap_name(probe: Probe, spec: BranchSpec) -> str:
    return probe.info[spec.tap]['module']


@torch.no_grad()
def check_halvings(probe: Probe, spec: BranchSpec, branch: nn.Module) -> None:
    """Check the papers' rule: every path from the input to a classifier has the same number of down-samplings.

    The rule is for designs made of blocks; pooled heads are exempt (DKS, section 4.1).

    Raises:
        ValueError: The branch has more or fewer.
    """
    if not KINDS[spec.kind]:
        return
    tap = probe.record.taps[spec.tap]
    features, _ = skeleton(branch).eval()(torch.empty_like(tap, dtype=next(branch.parameters()).dtype))
    image = probe.record.input_size[1:]
    own, main = count_halvings(image, features.shape[-2:]), count_halvings(image, probe.sizes()[-1])
    if own != main:
        raise ValueError(
            f'the path through the branch at {tap_name(probe, spec)!r} has {own} down-samplings, the main one {main} '
            '(give it as many stages as follow the tap; attach_branches(strict=False) only warns)'
        )
