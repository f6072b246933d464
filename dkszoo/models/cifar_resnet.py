"""CIFAR ResNets.

`Deep Residual Learning for Image Recognition` - https://arxiv.org/abs/1512.03385, section 4.2, in the two public
variants of their shortcut: a 1x1 projection wherever the shape changes (RepDistiller, our default) or 2x2 average
pooling with zero channels appended (`shortcut='pad'`, as in the Deeply-supervised Knowledge Synergy line of code, DHM).
The `x4` networks are RepDistiller's: a stem of 32 channels and stages of 64, 128, 256. `cifar_resnet18` and
`cifar_resnet50` have the stages of the ImageNet networks behind a 3x3 stem of stride 1 without max-pool (RepDistiller's
`ResNet50`; BYOT's ResNet-18 is the same network). SemCKD's `ResNet18` and `ResNet50` differ: 7x7 stem, max-pool.

Initialisation: convolutions kaiming normal (fan out), batch norms 1 and 0, classifier torch's default, as in
RepDistiller and DHM. The exception is `cifar_resnet1202`: the last norm of each of its blocks starts at 0; otherwise
the untrained network overflows in eval mode (each of 600 blocks doubles the variance). Keys are those of torchvision's
ResNet.
"""

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ._cifar_net import CifarNet, cifar_cfg, init_convs
from ._tags import default_cfgs_with_tags

__all__ = ['CifarResNet']


class PadShortcut(nn.Module):
    """Parameter-free shortcut: 2x2 average pool where the stride is 2, then zero channels appended."""

    def __init__(self, pad_chs: int, stride: int):
        super().__init__()
        self.pad_chs = pad_chs
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)  # round odd sizes up, like the 3x3 convolution
        return F.pad(x, (0, 0, 0, 0, 0, self.pad_chs))


def make_shortcut(shortcut: str, in_chs: int, out_chs: int, stride: int, dd: dict) -> nn.Module | None:
    if stride == 1 and in_chs == out_chs:
        return None
    if shortcut == 'pad':
        return PadShortcut(out_chs - in_chs, stride)
    return nn.Sequential(nn.Conv2d(in_chs, out_chs, 1, stride, bias=False, **dd), nn.BatchNorm2d(out_chs, **dd))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_chs: int, planes: int, stride: int, shortcut: str, dd: dict):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, planes, 3, stride, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(planes, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(planes, **dd)
        self.downsample = make_shortcut(shortcut, in_chs, planes, stride, dd)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.act2(x + shortcut)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_chs: int, planes: int, stride: int, shortcut: str, dd: dict):
        super().__init__()
        out_chs = planes * self.expansion
        self.conv1 = nn.Conv2d(in_chs, planes, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(planes, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(planes, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(planes, out_chs, 1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(out_chs, **dd)
        self.downsample = make_shortcut(shortcut, in_chs, out_chs, stride, dd)
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.act3(x + shortcut)


class CifarResNet(CifarNet):
    """ResNet for 32x32 images.

    Args:
        block: BasicBlock or Bottleneck.
        layers: Blocks of each stage; every stage but the first halves the resolution.
        channels: Planes of each stage.
        stem_chs: Channels of the 3x3 stem.
        shortcut: 'projection' (1x1 convolution and norm where the shape changes) or 'pad' (parameter-free).
        zero_init_last: Start the last norm of every block at 0, so that the block starts as its shortcut.
        num_classes: Classes; 0 leaves the classifier out.
        in_chans: Image channels.
        global_pool: timm's pooling name.
        drop_rate: Dropout before the classifier.
        device: Where the parameters are made.
        dtype: Their type.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, ...],
        channels: tuple[int, ...] = (16, 32, 64),
        stem_chs: int = 16,
        shortcut: str = 'projection',
        zero_init_last: bool = False,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if shortcut not in ('projection', 'pad'):
            raise ValueError(f"shortcut must be 'projection' or 'pad', got {shortcut!r}")
        if len(layers) not in (3, 4) or len(channels) != len(layers):
            raise ValueError(f'expected 3 or 4 stages, got layers {tuple(layers)} and channels {tuple(channels)}')
        dd = dict(device=device, dtype=dtype)
        self.block, self.shortcut, self.channels = block, shortcut, channels
        self.zero_init_last = zero_init_last
        self.in_chans = in_chans
        self.stage_depths = tuple(layers)

        self.conv1 = nn.Conv2d(in_chans, stem_chs, 3, 1, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(stem_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        chs = self._init_stages(stem_chs, [2**i for i in range(len(layers))])
        self._init_head(chs, num_classes, global_pool, drop_rate)
        init_convs(self.conv1)

    def make_stage(self, index: int, in_chs: int, depth: int, width: float = 1.0) -> tuple[nn.Sequential, int]:
        planes = max(1, int(self.channels[index] * width))
        dd = self._dd()
        blocks = []
        for i in range(depth):
            stride = 2 if index > 0 and i == 0 else 1
            blocks.append(self.block(in_chs, planes, stride, self.shortcut, dd))
            in_chs = planes * self.block.expansion
        stage = nn.Sequential(*blocks)
        init_convs(stage)
        if self.zero_init_last:
            for block in blocks:
                nn.init.zeros_((block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight)
        return stage, in_chs

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.act1(self.bn1(self.conv1(x)))


def _create_cifar_resnet(variant: str, pretrained: bool = False, **kwargs) -> CifarResNet:
    out_indices = tuple(range(len(kwargs['layers'])))
    return build_model_with_cfg(CifarResNet, variant, pretrained, feature_cfg=dict(out_indices=out_indices), **kwargs)


default_cfgs = default_cfgs_with_tags(
    {
        'cifar_resnet8.*': cifar_cfg(),
        'cifar_resnet14.*': cifar_cfg(),
        'cifar_resnet20.*': cifar_cfg(),
        'cifar_resnet32.*': cifar_cfg(),
        'cifar_resnet44.*': cifar_cfg(),
        'cifar_resnet56.*': cifar_cfg(),
        'cifar_resnet110.*': cifar_cfg(),
        'cifar_resnet1202.*': cifar_cfg(),
        'cifar_resnet8x4.*': cifar_cfg(),
        'cifar_resnet32x4.*': cifar_cfg(),
        'cifar_resnet18.*': cifar_cfg(pool_size=(4, 4)),
        'cifar_resnet50.*': cifar_cfg(pool_size=(4, 4)),
    }
)


def _basic(depth: int, **kwargs) -> dict:
    """Arguments of the (6n + 2)-layer network; `kwargs` adds to them."""
    return dict(block=BasicBlock, layers=((depth - 2) // 6,) * 3, **kwargs)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-8 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet8', pretrained, **dict(_basic(8), **kwargs))


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-14 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet14', pretrained, **dict(_basic(14), **kwargs))


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-20 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet20', pretrained, **dict(_basic(20), **kwargs))


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-32 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet32', pretrained, **dict(_basic(32), **kwargs))


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-44 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet44', pretrained, **dict(_basic(44), **kwargs))


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-56 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet56', pretrained, **dict(_basic(56), **kwargs))


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-110 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet110', pretrained, **dict(_basic(110), **kwargs))


@register_model
def cifar_resnet1202(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-1202 for 32x32 images."""
    return _create_cifar_resnet('cifar_resnet1202', pretrained, **dict(_basic(1202, zero_init_last=True), **kwargs))


@register_model
def cifar_resnet8x4(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-8 for 32x32 images, four times as wide behind a stem of 32 channels."""
    model_args = _basic(8, channels=(64, 128, 256), stem_chs=32)
    return _create_cifar_resnet('cifar_resnet8x4', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_resnet32x4(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-32 for 32x32 images, four times as wide behind a stem of 32 channels."""
    model_args = _basic(32, channels=(64, 128, 256), stem_chs=32)
    return _create_cifar_resnet('cifar_resnet32x4', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-18 for 32x32 images: the stages of the ImageNet network behind a 3x3 stem of stride 1."""
    model_args = dict(block=BasicBlock, layers=(2, 2, 2, 2), channels=(64, 128, 256, 512), stem_chs=64)
    return _create_cifar_resnet('cifar_resnet18', pretrained, **dict(model_args, **kwargs))


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-50 for 32x32 images: the stages of the ImageNet network behind a 3x3 stem of stride 1."""
    model_args = dict(block=Bottleneck, layers=(3, 4, 6, 3), channels=(64, 128, 256, 512), stem_chs=64)
    return _create_cifar_resnet('cifar_resnet50', pretrained, **dict(model_args, **kwargs))
