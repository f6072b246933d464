"""New stages of a network's own kind, at any depth and width."""

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from timm.models import ResNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from .taps import feature_list


@dataclass(frozen=True)
class OwnStages:
    """How to make stages of a network's own kind.

    Attributes:
        family: With `depths`, the key of its block lists in `designs.DKS_BLOCKS`.
        depths: Blocks of each stage; of a stage of several rows a tuple.
        first: `feature_info` index of the first stage.
        make_stage: (stage index, channels in, blocks, width factor) -> (module, channels out), initialised. Blocks are
            a tuple for a stage of several rows.
        make_norm: (channels in) -> (module, channels out), for between the last stage and the pool.
    """

    family: str
    depths: tuple
    first: int
    make_stage: Callable[[int, int, int | tuple[int, ...], float], tuple[nn.Module, int]]
    make_norm: Callable[[int], tuple[nn.Module, int]]


def own_stages(backbone: nn.Module) -> OwnStages:
    """How to make stages of one of dkszoo's networks or of a plain timm ResNet.

    Raises:
        ValueError: The network is of another kind, or not plain (with the difference).
    """
    if hasattr(backbone, 'make_stage'):
        block = getattr(getattr(backbone, 'block', None), '__name__', '')
        bottlenecks = getattr(backbone, 'bottleneck', False) or block == 'Bottleneck'
        family = type(backbone).__name__ + ('.Bottleneck' if bottlenecks else '')
        return OwnStages(family, tuple(backbone.stage_depths), 0, backbone.make_stage, backbone.make_norm)
    if type(backbone) is ResNet:
        return resnet_stages(backbone)
    raise ValueError('it has no stages that can be made in other sizes')


def resnet_stages(backbone: ResNet) -> OwnStages:
    """How to make stages of timm's own ResNets: timm creates a network of the same name in other sizes, for its stages.

    Raises:
        ValueError: The network's blocks, widths, strides, norms, ... differ from the plain one of its depth.
    """
    layers = [getattr(backbone, entry['module']) for entry in feature_list(backbone)[1:]]
    if not all(len(layer) for layer in layers):
        raise ValueError('one of its stages has no blocks')
    block = type(layers[0][0])
    if block not in (BasicBlock, Bottleneck):
        raise ValueError(f'its blocks are {block.__name__}, not those of the plain ResNet')
    if not all(type(layer[0].conv1) is nn.Conv2d for layer in layers):
        raise ValueError('its convolutions were replaced')
    channels = [layer[0].conv1.out_channels for layer in layers]
    drop_path = max((m.drop_prob for m in backbone.modules() if hasattr(m, 'drop_prob')), default=0.0)
    plain = dict(block=block, drop_path_rate=drop_path, num_classes=0)
    with torch.device('meta'):
        twin = ResNet(layers=[len(layer) for layer in layers], channels=channels, **plain)
    for entry, layer in zip(feature_list(backbone)[1:], layers, strict=True):
        if repr(layer).replace('SyncBatchNorm', 'BatchNorm2d') != repr(getattr(twin, entry['module'])):
            raise ValueError(f"its {entry['module']} is not the plain ResNet's (widths, strides, norms or blocks)")
    weight = next(backbone.parameters())

    def make_stage(index: int, in_chs: int, depth: int, width: float) -> tuple[nn.Module, int]:
        sizes = list(channels)
        sizes[index - 1], sizes[index] = in_chs // block.expansion, max(1, int(channels[index] * width))
        depths = [depth if i == index else 1 for i in range(len(channels))]
        with torch.device('meta' if weight.is_meta else 'cpu'):  # meta draws no random numbers
            donor = _create(backbone, layers=depths, channels=sizes, **plain)
        donor = donor.to(weight.device, weight.dtype)
        return getattr(donor, f'layer{index + 1}'), sizes[index] * block.expansion

    family = 'ResNet' if block is BasicBlock else f'ResNet.{block.__name__}'
    return OwnStages(family, tuple(map(len, layers)), 1, make_stage, lambda chs: (nn.Identity(), chs))


def _create(backbone: ResNet, **kwargs) -> ResNet:
    """A fresh ResNet, initialised as timm initialises the backbone's name."""
    name = (getattr(backbone, 'pretrained_cfg', None) or {}).get('architecture') or ''
    if timm.is_model(name):
        try:
            return timm.create_model(name, **kwargs)
        except TypeError:  # a third-party name that takes no sizes
            pass
    return ResNet(**kwargs)
