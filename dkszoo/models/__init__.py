"""Backbones that timm lacks. Importing this package registers them with timm."""

from . import (
    cifar_densenet,
    cifar_mobilenet_v1,
    cifar_mobilenet_v2,
    cifar_resnet,
    cifar_shufflenet_v2,
    cifar_vgg,
    cifar_wrn,
    dks_resnet,
)

__all__ = [
    'cifar_densenet',
    'cifar_mobilenet_v1',
    'cifar_mobilenet_v2',
    'cifar_resnet',
    'cifar_shufflenet_v2',
    'cifar_vgg',
    'cifar_wrn',
    'dks_resnet',
]
