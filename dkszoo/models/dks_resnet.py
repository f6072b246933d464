"""ImageNet ResNets under names of their own, for weights trained with DKS.

`Deep Residual Learning for Image Recognition` - https://arxiv.org/abs/1512.03385, trained with deeply-supervised
knowledge synergy - https://arxiv.org/abs/1906.00675. The networks are timm's own, equal in keys and function to
torchvision's and the published DKS weights. They have names of their own because timm offers no public way to add a tag
to its names, and its `resnet*` names carry other evaluation settings. Here images are resized to 256x256, whatever
their aspect ratio, with bicubic interpolation and centre-cropped to 224x224, as in the official DKS evaluation. The
tags `sun2019_in1k` are the weights published by the authors of DKS, in torchvision's format on Google Drive;
dkszoo.weights downloads and converts them.

Initialisation: convolutions kaiming normal (fan out), batch norms 1 and 0, classifier torch's default, as in
torchvision and DHM; timm's `resnet*` names start the last norm of every block at 0 (`zero_init_last=True` here).
"""

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import ResNet, build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, Bottleneck

from ._tags import default_cfgs_with_tags

__all__ = []


def _create_dks_resnet(variant: str, pretrained: bool = False, **kwargs) -> ResNet:
    return build_model_with_cfg(ResNet, variant, pretrained, **dict(dict(zero_init_last=False), **kwargs))


def _cfg(**kwargs) -> dict:
    return {
        'url': '',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'crop_mode': 'squash',
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'conv1',
        'classifier': 'fc',
        'license': 'apache-2.0',
        **kwargs,
    }


def _sun2019_cfg(file_id: str) -> dict:
    # Not the URL itself: timm would cache all Google Drive files under one name, and load them unconverted.
    origin = dict(origin_url='https://github.com/sundw2014/DKS', paper_ids='arXiv:1906.00675', license=None)
    return _cfg(url=f'gdrive:{file_id}', **origin)


default_cfgs = default_cfgs_with_tags(
    {
        'dks_resnet18.sun2019_in1k': _sun2019_cfg('1P5QA_uLyaqaSDUCVb0Kkg-UlvVoBJphc'),
        'dks_resnet18.*': _cfg(),
        'dks_resnet34.*': _cfg(),
        'dks_resnet50.sun2019_in1k': _sun2019_cfg('1sqhBPdzHi-X0svyBeFWEjiqveWfAohdK'),
        'dks_resnet50.*': _cfg(),
        'dks_resnet101.*': _cfg(),
        'dks_resnet152.sun2019_in1k': _sun2019_cfg('1zoCNTuSI0dG2JUjTLFc5vjFodVPPi6C7'),
        'dks_resnet152.*': _cfg(),
    }
)


@register_model
def dks_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-18 for ImageNet."""
    return _create_dks_resnet('dks_resnet18', pretrained, **dict(dict(block=BasicBlock, layers=(2, 2, 2, 2)), **kwargs))


@register_model
def dks_resnet34(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-34 for ImageNet."""
    return _create_dks_resnet('dks_resnet34', pretrained, **dict(dict(block=BasicBlock, layers=(3, 4, 6, 3)), **kwargs))


@register_model
def dks_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-50 for ImageNet."""
    return _create_dks_resnet('dks_resnet50', pretrained, **dict(dict(block=Bottleneck, layers=(3, 4, 6, 3)), **kwargs))


@register_model
def dks_resnet101(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-101 for ImageNet."""
    model_args = dict(block=Bottleneck, layers=(3, 4, 23, 3))
    return _create_dks_resnet('dks_resnet101', pretrained, **dict(model_args, **kwargs))


@register_model
def dks_resnet152(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-152 for ImageNet."""
    model_args = dict(block=Bottleneck, layers=(3, 8, 36, 3))
    return _create_dks_resnet('dks_resnet152', pretrained, **dict(model_args, **kwargs))
