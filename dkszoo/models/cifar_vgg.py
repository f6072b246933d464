"""CIFAR VGGs with batch norm.

`Very Deep Convolutional Networks for Large-Scale Image Recognition` - https://arxiv.org/abs/1409.1556, as in
RepDistiller and mdistiller (their `vggN` is `vggN_bn`): convolutions with biases before the batch norm, global average
pooling and one linear layer instead of three.

The paper's five blocks make four stages: the fourth and fifth are one, because the public code omits the pooling
between them at 32x32. It pools there only if images are exactly 64 pixels high; here it never does, so that a stage is
the same function at every size (64x64 images therefore give an 8x8 final map here and 4x4 there). A max-pool belongs to
the start of the stage after it, so that a tap is the input of the next stage.

Initialisation: convolutions normal with variance 2 / (k k out_chs), their biases 0, batch norms 1 and 0, classifier
normal with standard deviation 0.01 and bias 0, as in RepDistiller.
"""

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ._cifar_net import CifarNet, cifar_cfg, init_convs
from ._tags import default_cfgs_with_tags

__all__ = ['CifarVGG']


class ConvBlock(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, dd: dict):
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, 3, 1, 1, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class CifarVGG(CifarNet):
    """VGG for 32x32 images.

    Args:
        layers: Convolutions of each of the four stages.
        channels: Channels of each stage.
        num_classes: Classes; 0 leaves the classifier out.
        in_chans: Image channels.
        global_pool: timm's pooling name.
        drop_rate: Dropout before the classifier.
        device: Where the parameters are made.
        dtype: Their type.
    """

    _stem_keys = r'^layer1\.0'

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        channels: tuple[int, int, int, int] = (64, 128, 256, 512),
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self._asked = dict(device=device, dtype=dtype)
        self.in_chans = in_chans
        self.stage_depths = tuple(layers)
        self.channels = channels

        chs = self._init_stages(in_chans, (1, 2, 4, 8))
        self._init_head(chs, num_classes, global_pool, drop_rate)
        if num_classes > 0:
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def _dd(self) -> dict:
        # There is no stem, so the first stage is made before any parameter exists.
        return self._asked if next(self.parameters(), None) is None else super()._dd()

    def make_stage(self, index: int, in_chs: int, depth: int, width: float = 1.0) -> tuple[nn.Sequential, int]:
        out_chs = max(1, int(self.channels[index] * width))
        dd = self._dd()
        layers = [nn.MaxPool2d(2)] if index > 0 else []
        for _ in range(depth):
            layers.append(ConvBlock(in_chs, out_chs, dd))
            in_chs = out_chs
        stage = nn.Sequential(*layers)
        init_convs(stage)
        return stage, out_chs

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _create_cifar_vgg(variant: str, pretrained: bool = False, **kwargs) -> CifarVGG:
    return build_model_with_cfg(CifarVGG, variant, pretrained, feature_cfg=dict(out_indices=(0, 1, 2, 3)), **kwargs)


def _cfg(**kwargs) -> dict:
    return cifar_cfg(pool_size=(4, 4), first_conv='layer1.0.conv', **kwargs)


default_cfgs = default_cfgs_with_tags(
    {
        'cifar_vgg8.*': _cfg(),
        'cifar_vgg11.*': _cfg(),
        'cifar_vgg13.*': _cfg(),
        'cifar_vgg16.*': _cfg(),
        'cifar_vgg19.*': _cfg(),
    }
)


@register_model
def cifar_vgg8(pretrained: bool = False, **kwargs) -> CifarVGG:
    """VGG-8 with batch norm for 32x32 images."""
    return _create_cifar_vgg('cifar_vgg8', pretrained, **dict(dict(layers=(1, 1, 1, 2)), **kwargs))


@register_model
def cifar_vgg11(pretrained: bool = False, **kwargs) -> CifarVGG:
    """VGG-11 with batch norm for 32x32 images."""
    return _create_cifar_vgg('cifar_vgg11', pretrained, **dict(dict(layers=(1, 1, 2, 4)), **kwargs))


@register_model
def cifar_vgg13(pretrained: bool = False, **kwargs) -> CifarVGG:
    """VGG-13 with batch norm for 32x32 images."""
    return _create_cifar_vgg('cifar_vgg13', pretrained, **dict(dict(layers=(2, 2, 2, 4)), **kwargs))


@register_model
def cifar_vgg16(pretrained: bool = False, **kwargs) -> CifarVGG:
    """VGG-16 with batch norm for 32x32 images."""
    return _create_cifar_vgg('cifar_vgg16', pretrained, **dict(dict(layers=(2, 2, 3, 6)), **kwargs))


@register_model
def cifar_vgg19(pretrained: bool = False, **kwargs) -> CifarVGG:
    """VGG-19 with batch norm for 32x32 images."""
    return _create_cifar_vgg('cifar_vgg19', pretrained, **dict(dict(layers=(2, 2, 4, 8)), **kwargs))
