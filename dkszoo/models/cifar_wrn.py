"""CIFAR Wide ResNets.

`Wide Residual Networks` - https://arxiv.org/abs/1605.07146. Pre-activation blocks; a projection shortcut starts from
relu(bn(x)), the identity one from x. Function and parameters are those of the official DKS code, DHM and
RepDistiller, which agree bit for bit. Stage outputs are raw block outputs, before the next norm.

Initialisation is RepDistiller's: convolutions normal with variance 2 / (k k out_chs), batch norms 1 and 0, classifier
bias 0. The official DKS code differs: convolutions and classifier kaiming normal (fan in), norm weights uniform in
[0, 1). `block_drop_rate=0.3` is the dropout variant of DKS Table 1, between the two convolutions of every block.
"""

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ._cifar_net import CifarNet, cifar_cfg, init_convs
from ._tags import default_cfgs_with_tags

__all__ = ['CifarWRN']


class PreActBlock(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, stride: int, drop_rate: float, dd: dict):
        super().__init__()
        self.drop_rate = drop_rate
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False, **dd)
        # In the networks a stride always comes with a change of width, but not in branches of other widths.
        changes = in_chs != out_chs or stride != 1
        self.shortcut = nn.Conv2d(in_chs, out_chs, 1, stride, bias=False, **dd) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.act2(self.bn2(self.conv1(out)))
        if self.drop_rate > 0.0:
            out = F.dropout(out, p=self.drop_rate, training=self.training)
        return self.conv2(out) + shortcut


class CifarWRN(CifarNet):
    """Wide ResNet for 32x32 images.

    Args:
        depth: Convolutional layers, 6n + 4.
        widen_factor: Factor on the 16, 32, 64 channels of the three stages.
        block_drop_rate: Dropout between the two convolutions of every block.
        num_classes: Classes; 0 leaves the classifier out.
        in_chans: Image channels.
        global_pool: timm's pooling name.
        drop_rate: Dropout before the classifier.
        device: Where the parameters are made.
        dtype: Their type.
    """

    _stem_keys = r'^conv1'
    _norm_keys = r'^bn1'

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        block_drop_rate: float = 0.0,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'depth must be 6n + 4 with n of at least 1, got {depth}')
        dd = dict(device=device, dtype=dtype)
        self.block_drop_rate = block_drop_rate
        self.channels = tuple(c * widen_factor for c in (16, 32, 64))
        self.in_chans = in_chans
        self.stage_depths = ((depth - 4) // 6,) * 3

        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False, **dd)
        chs = self._init_stages(16, (1, 2, 4))
        self.bn1 = nn.BatchNorm2d(chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self._init_head(chs, num_classes, global_pool, drop_rate)
        init_convs(self.conv1)
        if num_classes > 0:
            nn.init.zeros_(self.fc.bias)

    def make_stage(self, index: int, in_chs: int, depth: int, width: float = 1.0) -> tuple[nn.Sequential, int]:
        out_chs = max(1, int(self.channels[index] * width))
        dd = self._dd()
        blocks = []
        for i in range(depth):
            stride = 2 if index > 0 and i == 0 else 1
            blocks.append(PreActBlock(in_chs, out_chs, stride, self.block_drop_rate, dd))
            in_chs = out_chs
        stage = nn.Sequential(*blocks)
        init_convs(stage)
        return stage, out_chs

    def make_norm(self, in_chs: int) -> tuple[nn.Sequential, int]:
        return nn.Sequential(nn.BatchNorm2d(in_chs, **self._dd()), nn.ReLU(inplace=True)), in_chs

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x)

    def forward_norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.act1(self.bn1(x))

    def _drop_norm(self) -> None:
        self.bn1 = self.act1 = nn.Identity()


def _create_cifar_wrn(variant: str, pretrained: bool = False, **kwargs) -> CifarWRN:
    return build_model_with_cfg(CifarWRN, variant, pretrained, feature_cfg=dict(out_indices=(0, 1, 2)), **kwargs)


default_cfgs = default_cfgs_with_tags(
    {
        'cifar_wrn16_1.*': cifar_cfg(),
        'cifar_wrn16_2.*': cifar_cfg(),
        'cifar_wrn28_4.*': cifar_cfg(),
        'cifar_wrn28_10.*': cifar_cfg(),
        'cifar_wrn40_1.*': cifar_cfg(),
        'cifar_wrn40_2.*': cifar_cfg(),
    }
)


@register_model
def cifar_wrn16_1(pretrained: bool = False, **kwargs) -> CifarWRN:
    """WRN-16-1 for 32x32 images."""
    return _create_cifar_wrn('cifar_wrn16_1', pretrained, **dict(dict(depth=16, widen_factor=1), **kwargs))


@register_model
def cifar_wrn16_2(pretrained: bool = False, **kwargs) -> CifarWRN:
    """WRN-16-2 for 32x32 images."""
    return _create_cifar_wrn('cifar_wrn16_2', pretrained, **dict(dict(depth=16, widen_factor=2), **kwargs))


@register_model
def cifar_wrn28_4(pretrained: bool = False, **kwargs) -> CifarWRN:
    """WRN-28-4 for 32x32 images."""
    return _create_cifar_wrn('cifar_wrn28_4', pretrained, **dict(dict(depth=28, widen_factor=4), **kwargs))


@register_model
def cifar_wrn28_10(pretrained: bool = False, **kwargs) -> CifarWRN:
    """WRN-28-10 for 32x32 images."""
    return _create_cifar_wrn('cifar_wrn28_10', pretrained, **dict(dict(depth=28, widen_factor=10), **kwargs))


@register_model
def cifar_wrn40_1(pretrained: bool = False, **kwargs) -> CifarWRN:
    """WRN-40-1 for 32x32 images."""
    return _create_cifar_wrn('cifar_wrn40_1', pretrained, **dict(dict(depth=40, widen_factor=1), **kwargs))


@register_model
def cifar_wrn40_2(pretrained: bool = False, **kwargs) -> CifarWRN:
    """WRN-40-2 for 32x32 images."""
    return _create_cifar_wrn('cifar_wrn40_2', pretrained, **dict(dict(depth=40, widen_factor=2), **kwargs))
