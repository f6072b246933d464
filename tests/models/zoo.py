"""The project's own models for the tests: names from the registry, size caps, cached small builds."""

import copy
import functools

import pytest
import timm
import torch
from torch import nn

import dkszoo.models

# Every network is built, configured and counted, and its head is tried. Those up to MAX_META_CONVS convolutions also
# run on the meta device in every test of structure, and those up to both other caps on real numbers.
MAX_META_CONVS = 300
MAX_CONVS = 100
MAX_PARAMS = 12e6
# Models that are only deeper or wider than another; slow in tests of structure and numbers.
LARGER = (
    *('cifar_densenet100_12', 'cifar_resnet32', 'cifar_resnet44', 'cifar_resnet56', 'cifar_resnet110'),
    *('cifar_resnet1202', 'cifar_resnet32x4', 'cifar_vgg13', 'cifar_vgg16', 'cifar_vgg19', 'cifar_wrn28_4'),
    *('cifar_wrn28_10', 'cifar_wrn40_1', 'cifar_wrn40_2', 'dks_resnet34', 'dks_resnet101', 'dks_resnet152'),
)

FAMILIES = {family: timm.list_models(module=family) for family in dkszoo.models.__all__}
NAMES = sorted(name for names in FAMILIES.values() for name in names)
CIFAR_NAMES = [name for name in NAMES if name.startswith('cifar_')]


@functools.cache
def _meta(name):
    return timm.create_model(name, device='meta').eval()


def meta(name, **kwargs):
    """The network without data, in eval mode; the plain one is a copy of a cached build."""
    return timm.create_model(name, device='meta', **kwargs).eval() if kwargs else copy.deepcopy(_meta(name))


def num_params(model):
    return sum(p.numel() for p in model.parameters())


def num_convs(name):
    return sum(isinstance(m, nn.Conv2d) for m in _meta(name).modules())


RUNNABLE = [n for n in NAMES if num_convs(n) <= MAX_META_CONVS]
LIGHT = [n for n in NAMES if num_convs(n) <= MAX_CONVS and num_params(_meta(n)) <= MAX_PARAMS]
SMALLEST = [min(names, key=num_convs) for names in FAMILIES.values()]


def smaller_by_default(names):
    """All names as parameters of a test; those in LARGER are marked slow."""
    return some_by_default(names, *(name for name in names if name not in LARGER))


def some_by_default(names, *default):
    """All names as parameters of a test; all but the given ones are marked slow."""
    assert set(default) <= set(names)
    return [name if name in default else pytest.param(name, marks=pytest.mark.slow) for name in names]


def size(name):
    """A small input size the network works at: its own at 32 pixels, 64 for the ImageNet networks."""
    return 32 if name in CIFAR_NAMES else 64


def images(name, batch=2, chans=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, chans, size(name), size(name), generator=generator)


def fresh(name, **kwargs):
    """The network with its initial weights."""
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


@functools.cache
def _real(name):
    model = fresh(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        m.momentum = None  # one forward then sets the running statistics to the batch's, and eval mode is well scaled
    with torch.no_grad():
        model.train()(images(name, batch=4, seed=1))
    for m in norms:
        m.momentum = 0.1
    return model.eval()


def real(name):
    """A copy of the network with weights and sensible running statistics, in eval mode."""
    return copy.deepcopy(_real(name))


def assert_near(actual, expected, tolerance):
    """max|actual - expected| <= tolerance * max|expected|, which is finite and above 0."""
    actual, expected = actual.detach().float(), expected.detach().float()
    assert actual.shape == expected.shape
    scale = expected.abs().max()
    assert 0 < scale < float('inf')
    assert (actual - expected).abs().max() <= tolerance * scale
