"""CIFAR DenseNets.

`Densely Connected Convolutional Networks` - https://arxiv.org/abs/1608.06993. Depth 3n + 4 (6n + 4 with bottlenecks), a
3x3 stem without norm (16 channels; twice the growth rate for BC), transitions of a 1x1 convolution and 2x2 average
pooling, halving the channels for BC only. Function, parameters and order of keys are those of DHM, in the
Deeply-supervised Knowledge Synergy line of code.

A stage is a dense block and the transition after it; the last stage has no transition. So the taps lie after the
transitions, where DHM's branches start. The stages end at 1/2, 1/4 and 1/4 of the input resolution.

Initialisation: convolutions normal with variance 2 / (k k out_chs), batch norms 1 and 0, classifier torch's default, as
in DHM (RepDistiller has no DenseNet). No dropout, as in DHM's recipes for augmented data.
"""

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ._cifar_net import CifarNet, cifar_cfg, init_convs
from ._tags import default_cfgs_with_tags

__all__ = ['CifarDenseNet']


class DenseLayer(nn.Module):
    def __init__(self, in_chs: int, growth_rate: int, dd: dict):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_chs, **dd)
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_chs, growth_rate, 3, 1, 1, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(self.act(self.bn(x)))], 1)


class BottleneckLayer(nn.Module):
    def __init__(self, in_chs: int, growth_rate: int, dd: dict):
        super().__init__()
        mid_chs = 4 * growth_rate
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(mid_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(mid_chs, growth_rate, 3, 1, 1, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.act1(self.bn1(x)))
        return torch.cat([x, self.conv2(self.act2(self.bn2(out)))], 1)


class Transition(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, dd: dict):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_chs, **dd)
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_chs, out_chs, 1, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(self.act(self.bn(x))), 2)


class CifarDenseNet(CifarNet):
    """DenseNet for 32x32 images.

    Args:
        depth: Convolutional and linear layers, 3n + 4, or 6n + 4 with bottlenecks.
        growth_rate: Channels added by each layer.
        bottleneck: DenseNet-BC: a 1x1 convolution before every 3x3 one, and transitions that halve the channels.
        num_classes: Classes; 0 leaves the classifier out.
        in_chans: Image channels.
        global_pool: timm's pooling name.
        drop_rate: Dropout before the classifier.
        device: Where the parameters are made.
        dtype: Their type.
    """

    _stem_keys = r'^conv1'
    _norm_keys = r'^bn'

    def __init__(
        self,
        depth: int,
        growth_rate: int,
        bottleneck: bool = False,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        layer_convs = 6 if bottleneck else 3
        if depth < layer_convs + 4 or (depth - 4) % layer_convs:
            raise ValueError(f'depth must be {layer_convs}n + 4 with n of at least 1, got {depth}')
        dd = dict(device=device, dtype=dtype)
        self.growth_rate = growth_rate
        self.bottleneck = bottleneck
        self.in_chans = in_chans
        self.stage_depths = ((depth - 4) // layer_convs,) * 3

        stem_chs = 2 * growth_rate if bottleneck else 16
        self.conv1 = nn.Conv2d(in_chans, stem_chs, 3, 1, 1, bias=False, **dd)
        chs = self._init_stages(stem_chs, (2, 4, 4))
        self.bn = nn.BatchNorm2d(chs, **dd)
        self.act = nn.ReLU(inplace=True)
        self._init_head(chs, num_classes, global_pool, drop_rate)
        init_convs(self.conv1)

    def make_stage(self, index: int, in_chs: int, depth: int, width: float = 1.0) -> tuple[nn.Sequential, int]:
        growth_rate = max(1, int(self.growth_rate * width))
        dd = self._dd()
        layer = BottleneckLayer if self.bottleneck else DenseLayer
        layers = [layer(in_chs + i * growth_rate, growth_rate, dd) for i in range(depth)]
        out_chs = in_chs + depth * growth_rate
        if index < 2:
            in_chs, out_chs = out_chs, out_chs // 2 if self.bottleneck else out_chs
            layers.append(Transition(in_chs, out_chs, dd))
        stage = nn.Sequential(*layers)
        init_convs(stage)
        return stage, out_chs

    def make_norm(self, in_chs: int) -> tuple[nn.Sequential, int]:
        return nn.Sequential(nn.BatchNorm2d(in_chs, **self._dd()), nn.ReLU(inplace=True)), in_chs

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x)

    def forward_norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(x))

    def _drop_norm(self) -> None:
        self.bn = self.act = nn.Identity()


def _create_cifar_densenet(variant: str, pretrained: bool = False, **kwargs) -> CifarDenseNet:
    return build_model_with_cfg(CifarDenseNet, variant, pretrained, feature_cfg=dict(out_indices=(0, 1, 2)), **kwargs)


default_cfgs = default_cfgs_with_tags(
    {
        'cifar_densenet40_12.*': cifar_cfg(),
        'cifar_densenet100_12.*': cifar_cfg(),
        'cifar_densenetbc100_12.*': cifar_cfg(),
    }
)


@register_model
def cifar_densenet40_12(pretrained: bool = False, **kwargs) -> CifarDenseNet:
    """DenseNet of 40 layers and growth rate 12 for 32x32 images."""
    return _create_cifar_densenet('cifar_densenet40_12', pretrained, **dict(dict(depth=40, growth_rate=12), **kwargs))


@register_model
def cifar_densenet100_12(pretrained: bool = False, **kwargs) -> CifarDenseNet:
    """DenseNet of 100 layers and growth rate 12 for 32x32 images."""
    return _create_cifar_densenet('cifar_densenet100_12', pretrained, **dict(dict(depth=100, growth_rate=12), **kwargs))


@register_model
def cifar_densenetbc100_12(pretrained: bool = False, **kwargs) -> CifarDenseNet:
    """DenseNet-BC of 100 layers and growth rate 12 for 32x32 images."""
    model_args = dict(depth=100, growth_rate=12, bottleneck=True)
    return _create_cifar_densenet('cifar_densenetbc100_12', pretrained, **dict(model_args, **kwargs))
