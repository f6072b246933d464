"""CIFAR MobileNetV2.

`MobileNetV2: Inverted Residuals and Linear Bottlenecks` - https://arxiv.org/abs/1801.04381, as in RepDistiller and
mdistiller (`mobile_half`, T = 6 and width 0.5): a stem of stride 2, row strides 1, 1, 2, 2, 1, 2, 1 (the second row
keeps the resolution), channels truncated to integers, ReLU instead of ReLU6, a 1x1 expansion even in the row that does
not expand, and at least 1280 channels at the end. HSAKD's network differs: its stem has stride 1, which costs 51
instead of 13 MFLOPs and gives 73.5 % instead of 64.6 %.

A stage is all rows of one resolution, so `stage_depths` holds a tuple for a stage of several rows.

Initialisation: convolutions normal with variance 2 / (k k out_chs), batch norms 1 and 0, classifier normal with
standard deviation 0.01 and bias 0, as in RepDistiller.
"""

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ._cifar_net import CifarNet, cifar_cfg, init_convs
from ._tags import default_cfgs_with_tags

__all__ = ['CifarMobileNetV2']


class InvertedResidual(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, stride: int, expand_ratio: int, dd: dict):
        super().__init__()
        mid_chs = in_chs * expand_ratio
        self.has_skip = stride == 1 and in_chs == out_chs
        self.conv_pw = nn.Conv2d(in_chs, mid_chs, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(mid_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv_dw = nn.Conv2d(mid_chs, mid_chs, 3, stride, 1, groups=mid_chs, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(mid_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv_pwl = nn.Conv2d(mid_chs, out_chs, 1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(out_chs, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act1(self.bn1(self.conv_pw(x)))
        out = self.act2(self.bn2(self.conv_dw(out)))
        out = self.bn3(self.conv_pwl(out))
        return x + out if self.has_skip else out


class CifarMobileNetV2(CifarNet):
    """MobileNetV2 for 32x32 images.

    Args:
        expand_ratio: Expansion inside the blocks of every row except the first, which has none.
        width_mult: Factor on all channels; on the last 1280 only if above 1.
        num_classes: Classes; 0 leaves the classifier out.
        in_chans: Image channels.
        global_pool: timm's pooling name.
        drop_rate: Dropout before the classifier.
        device: Where the parameters are made.
        dtype: Their type.
    """

    _norm_keys = r'^conv2|^bn2'
    # The rows of each stage, as (channels at width 1, blocks); the first row of every stage but the first has stride 2.
    rows = (((16, 1), (24, 2)), ((32, 3),), ((64, 4), (96, 3)), ((160, 3), (320, 1)))

    def __init__(
        self,
        expand_ratio: int = 6,
        width_mult: float = 1.0,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.expand_ratio = expand_ratio
        self.width_mult = width_mult
        self.in_chans = in_chans
        depths = [tuple(blocks for _, blocks in stage) for stage in self.rows]
        self.stage_depths = tuple(d if len(d) > 1 else d[0] for d in depths)

        stem_chs = int(32 * width_mult)
        self.conv1 = nn.Conv2d(in_chans, stem_chs, 3, 2, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(stem_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        chs = self._init_stages(stem_chs, (2, 4, 8, 16))
        num_features = int(1280 * max(width_mult, 1.0))
        self.conv2 = nn.Conv2d(chs, num_features, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(num_features, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self._init_head(num_features, num_classes, global_pool, drop_rate)
        init_convs(self.conv1)
        init_convs(self.conv2)
        if num_classes > 0:
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def make_stage(
        self, index: int, in_chs: int, depth: int | tuple[int, ...], width: float = 1.0
    ) -> tuple[nn.Sequential, int]:
        dd = self._dd()
        depths = (depth,) if isinstance(depth, int) else depth
        blocks = []
        for row, ((chs, _), num_blocks) in enumerate(zip(self.rows[index], depths, strict=True)):
            out_chs = max(1, int(int(chs * self.width_mult) * width))
            expand_ratio = 1 if index == 0 and row == 0 else self.expand_ratio
            for i in range(num_blocks):
                stride = 2 if index > 0 and row == 0 and i == 0 else 1
                blocks.append(InvertedResidual(in_chs, out_chs, stride, expand_ratio, dd))
                in_chs = out_chs
        stage = nn.Sequential(*blocks)
        init_convs(stage)
        return stage, in_chs

    def make_norm(self, in_chs: int) -> tuple[nn.Sequential, int]:
        dd = self._dd()
        out_chs = self.conv2.out_channels
        conv = nn.Conv2d(in_chs, out_chs, 1, bias=False, **dd)
        init_convs(conv)
        return nn.Sequential(conv, nn.BatchNorm2d(out_chs, **dd), nn.ReLU(inplace=True)), out_chs

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.act1(self.bn1(self.conv1(x)))

    def forward_norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.act2(self.bn2(self.conv2(x)))

    def _drop_norm(self) -> None:
        self.conv2 = self.bn2 = self.act2 = nn.Identity()


def _create_cifar_mobilenet_v2(variant: str, pretrained: bool = False, **kwargs) -> CifarMobileNetV2:
    feature_cfg = dict(out_indices=(0, 1, 2, 3))
    return build_model_with_cfg(CifarMobileNetV2, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


default_cfgs = default_cfgs_with_tags({'cifar_mobilenet_v2_half.*': cifar_cfg(pool_size=(2, 2))})


@register_model
def cifar_mobilenet_v2_half(pretrained: bool = False, **kwargs) -> CifarMobileNetV2:
    """MobileNetV2 of half width for 32x32 images."""
    return _create_cifar_mobilenet_v2('cifar_mobilenet_v2_half', pretrained, **dict(dict(width_mult=0.5), **kwargs))
