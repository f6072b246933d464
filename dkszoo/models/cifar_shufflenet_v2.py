"""CIFAR ShuffleNetV2.

`ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design` - https://arxiv.org/abs/1807.11164, at width
1, as in RepDistiller and mdistiller (`ShuffleV2`): a 1x1 stem of stride 1 instead of the paper's 3x3 stem and max-pool,
three stages of one down-sampling unit and 3, 7, 3 basic units, then a 1x1 convolution to 1024 channels. Basic units
concatenate their halves as [untouched, transformed] and shuffle the two groups. (torchvision's ImageNet network
shuffles the same way but has another stem.)

Initialisation: torch's defaults, as in RepDistiller.
"""

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ._cifar_net import CifarNet, cifar_cfg
from ._tags import default_cfgs_with_tags

__all__ = ['CifarShuffleNetV2']


class ConvNorm(nn.Module):
    """Convolution and batch norm, without activation."""

    def __init__(self, in_chs: int, out_chs: int, dd: dict, kernel_size: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding, groups=groups, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


def shuffle_two(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Concatenate two maps [B, C, H, W] and shuffle them as two groups: channels x0, y0, x1, y1, ..."""
    return torch.stack([x, y], 2).flatten(1, 2)


class BasicUnit(nn.Module):
    def __init__(self, chs: int, dd: dict):
        super().__init__()
        half = chs // 2
        self.pw1 = ConvNorm(half, half, dd)
        self.act1 = nn.ReLU(inplace=True)
        self.dw = ConvNorm(half, half, dd, kernel_size=3, groups=half)
        self.pw2 = ConvNorm(half, half, dd)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        right = self.dw(self.act1(self.pw1(right)))
        return shuffle_two(left, self.act2(self.pw2(right)))


class DownUnit(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, dd: dict):
        super().__init__()
        half = out_chs // 2
        self.left_dw = ConvNorm(in_chs, in_chs, dd, kernel_size=3, stride=2, groups=in_chs)
        self.left_pw = ConvNorm(in_chs, half, dd)
        self.left_act = nn.ReLU(inplace=True)
        self.right_pw1 = ConvNorm(in_chs, half, dd)
        self.right_act1 = nn.ReLU(inplace=True)
        self.right_dw = ConvNorm(half, half, dd, kernel_size=3, stride=2, groups=half)
        self.right_pw2 = ConvNorm(half, half, dd)
        self.right_act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.left_act(self.left_pw(self.left_dw(x)))
        right = self.right_dw(self.right_act1(self.right_pw1(x)))
        return shuffle_two(left, self.right_act2(self.right_pw2(right)))


class CifarShuffleNetV2(CifarNet):
    """ShuffleNetV2 for 32x32 images.

    Args:
        layers: Units of each stage, the down-sampling one included.
        channels: Channels of each stage, even.
        num_features: Channels of the last 1x1 convolution.
        num_classes: Classes; 0 leaves the classifier out.
        in_chans: Image channels.
        global_pool: timm's pooling name.
        drop_rate: Dropout before the classifier.
        device: Where the parameters are made.
        dtype: Their type.
    """

    _norm_keys = r'^conv2|^bn2'

    def __init__(
        self,
        layers: tuple[int, int, int] = (4, 8, 4),
        channels: tuple[int, int, int] = (116, 232, 464),
        num_features: int = 1024,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.channels = channels
        self.in_chans = in_chans
        self.stage_depths = tuple(layers)

        self.conv1 = nn.Conv2d(in_chans, 24, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(24, **dd)
        self.act1 = nn.ReLU(inplace=True)
        chs = self._init_stages(24, (2, 4, 8))
        self.conv2 = nn.Conv2d(chs, num_features, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(num_features, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self._init_head(num_features, num_classes, global_pool, drop_rate)

    def make_stage(self, index: int, in_chs: int, depth: int, width: float = 1.0) -> tuple[nn.Sequential, int]:
        out_chs = 2 * max(1, int(self.channels[index] * width / 2))
        dd = self._dd()
        units = [DownUnit(in_chs, out_chs, dd)] + [BasicUnit(out_chs, dd) for _ in range(depth - 1)]
        return nn.Sequential(*units), out_chs

    def make_norm(self, in_chs: int) -> tuple[nn.Sequential, int]:
        dd = self._dd()
        out_chs = self.conv2.out_channels
        conv = nn.Conv2d(in_chs, out_chs, 1, bias=False, **dd)
        return nn.Sequential(conv, nn.BatchNorm2d(out_chs, **dd), nn.ReLU(inplace=True)), out_chs

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.act1(self.bn1(self.conv1(x)))

    def forward_norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.act2(self.bn2(self.conv2(x)))

    def _drop_norm(self) -> None:
        self.conv2 = self.bn2 = self.act2 = nn.Identity()


def _create_cifar_shufflenet_v2(variant: str, pretrained: bool = False, **kwargs) -> CifarShuffleNetV2:
    feature_cfg = dict(out_indices=(0, 1, 2))
    return build_model_with_cfg(CifarShuffleNetV2, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


default_cfgs = default_cfgs_with_tags({'cifar_shufflenet_v2.*': cifar_cfg(pool_size=(4, 4))})


@register_model
def cifar_shufflenet_v2(pretrained: bool = False, **kwargs) -> CifarShuffleNetV2:
    """ShuffleNetV2 of width 1 for 32x32 images."""
    return _create_cifar_shufflenet_v2('cifar_shufflenet_v2', pretrained, **kwargs)
