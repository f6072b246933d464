"""CIFAR MobileNet.

`MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications` - https://arxiv.org/abs/1704.04861.
DKS trains it on CIFAR-100 "as used in Deep Mutual Learning", which published no code, so this layout is ours: the
paper's 13 depthwise-separable layers with all their down-samplings, behind a stem of stride 1. This gives reductions of
1, 2, 4, 8 and 16 and a 2x2 final map at 32x32. There are no public weights to compare with.

Initialisation: convolutions normal with variance 2 / (k k out_chs), where out_chs counts one group (1 for the depthwise
ones; timm's rule, while RepDistiller's MobileNetV2 counts all groups), batch norms 1 and 0, classifier torch's default.
"""

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ._cifar_net import CifarNet, cifar_cfg, init_convs
from ._tags import default_cfgs_with_tags

__all__ = ['CifarMobileNetV1']


class SeparableBlock(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, stride: int, dd: dict):
        super().__init__()
        self.conv_dw = nn.Conv2d(in_chs, in_chs, 3, stride, 1, groups=in_chs, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv_pw = nn.Conv2d(in_chs, out_chs, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.bn1(self.conv_dw(x)))
        return self.act2(self.bn2(self.conv_pw(x)))


class CifarMobileNetV1(CifarNet):
    """MobileNet for 32x32 images.

    Args:
        layers: Depthwise-separable layers of each stage; every stage but the first halves the resolution.
        channels: Channels of each stage.
        num_classes: Classes; 0 leaves the classifier out.
        in_chans: Image channels.
        global_pool: timm's pooling name.
        drop_rate: Dropout before the classifier.
        device: Where the parameters are made.
        dtype: Their type.
    """

    def __init__(
        self,
        layers: tuple[int, int, int, int, int] = (1, 2, 2, 6, 2),
        channels: tuple[int, int, int, int, int] = (64, 128, 256, 512, 1024),
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

        self.conv1 = nn.Conv2d(in_chans, 32, 3, 1, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(32, **dd)
        self.act1 = nn.ReLU(inplace=True)
        chs = self._init_stages(32, (1, 2, 4, 8, 16))
        self._init_head(chs, num_classes, global_pool, drop_rate)
        init_convs(self.conv1)

    def make_stage(self, index: int, in_chs: int, depth: int, width: float = 1.0) -> tuple[nn.Sequential, int]:
        out_chs = max(1, int(self.channels[index] * width))
        dd = self._dd()
        blocks = []
        for i in range(depth):
            stride = 2 if index > 0 and i == 0 else 1
            blocks.append(SeparableBlock(in_chs, out_chs, stride, dd))
            in_chs = out_chs
        stage = nn.Sequential(*blocks)
        init_convs(stage)
        for block in blocks:
            nn.init.normal_(block.conv_dw.weight, std=(2 / 9) ** 0.5)
        return stage, out_chs

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.act1(self.bn1(self.conv1(x)))


def _create_cifar_mobilenet_v1(variant: str, pretrained: bool = False, **kwargs) -> CifarMobileNetV1:
    feature_cfg = dict(out_indices=(0, 1, 2, 3, 4))
    return build_model_with_cfg(CifarMobileNetV1, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


default_cfgs = default_cfgs_with_tags({'cifar_mobilenet_v1.*': cifar_cfg(pool_size=(2, 2))})


@register_model
def cifar_mobilenet_v1(pretrained: bool = False, **kwargs) -> CifarMobileNetV1:
    """MobileNet of width 1 for 32x32 images."""
    return _create_cifar_mobilenet_v1('cifar_mobilenet_v1', pretrained, **kwargs)
