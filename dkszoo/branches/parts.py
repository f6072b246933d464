"""Modules of the branches that do not use the backbone's own stages."""

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import nn


class ResidualConv(nn.Module):
    """Two 3x3 convolutions with batch norm and a projection or identity shortcut: design `conv`."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, dd: dict):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(out_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.shortcut = None
        if stride > 1 or in_chs != out_chs:
            conv = nn.Conv2d(in_chs, out_chs, 1, stride, bias=False, **dd)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_chs, **dd))
        init_convs(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(x)) + shortcut)


class ConvNormAct(nn.Sequential):
    """3x3 convolution, batch norm, ReLU: design `ap_conv_2fc`."""

    def __init__(self, in_chs: int, out_chs: int, dd: dict):
        super().__init__(
            nn.Conv2d(in_chs, out_chs, 3, 1, 1, bias=False, **dd), nn.BatchNorm2d(out_chs, **dd), nn.ReLU(inplace=True)
        )
        init_convs(self)


class SepConv(nn.Sequential):
    """BYOT's separable convolution: depthwise 3x3 and 1x1, twice; the first depthwise one has the stride."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, dd: dict):
        def half(chs: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(in_chs, in_chs, 3, stride, 1, groups=in_chs, bias=False, **dd),
                nn.Conv2d(in_chs, chs, 1, bias=False, **dd),
                nn.BatchNorm2d(chs, **dd),
                nn.ReLU(inplace=True),
            ]

        super().__init__(*half(in_chs, stride), *half(out_chs, 1))


class Attention(nn.Module):
    """BYOT's attention: multiply a map by a mask computed from it at half its size."""

    def __init__(self, chs: int, dd: dict):
        super().__init__()
        self.conv = SepConv(chs, chs, 2, dd)
        self.bn = nn.BatchNorm2d(chs, **dd)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = self.act(self.bn(self.conv(x)))
        return x * F.interpolate(mask, x.shape[-2:], mode='bilinear', align_corners=False).sigmoid()


class TwoLayerHead(nn.Module):
    """Pool, linear, ReLU, linear: [B, C, H, W] -> logits [B, K]."""

    def __init__(self, in_chs: int, hidden: int, num_classes: int, drop_rate: float, dd: dict):
        super().__init__()
        self.global_pool = SelectAdaptivePool2d(pool_type='avg', flatten=True)
        self.fc1 = nn.Linear(in_chs, hidden, **dd)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(hidden, num_classes, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.act(self.fc1(self.global_pool(x)))))


def init_convs(module: nn.Module) -> None:
    """Initialise convolutions: normal with variance 2 / (k k out_chs). Batch norms keep torch's 1 and 0."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
