"""Files as the public code writes them: its networks' keys and shapes, filled by the fixtures' rule."""

import functools
import importlib.util
import json
from pathlib import Path

import torch

FIXTURES = Path(__file__).parents[1] / 'fixtures'
_spec = importlib.util.spec_from_file_location('fixtures_recipe', FIXTURES / 'recipe.py')
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)


@functools.cache
def fixture(name):
    return json.loads((FIXTURES / 'arch' / f'{name}.json').read_text())


def filled(keys):
    """A state dict with the values of the fixtures' rule."""
    return {key: torch.from_numpy(recipe.fill(key, shape)) for key, shape in keys}


def hollow(keys):
    """A state dict of the right shapes that takes no memory."""
    return {key: torch.zeros(()).expand(tuple(shape)) for key, shape in keys}


# -- entries -----------------------------------------------------------------------------------------------------------


def conv(name, out_chs, in_chs, kernel=3, suffix='.weight'):
    return [(f'{name}{suffix}', (out_chs, in_chs, kernel, kernel))]


def norm(name, chs, count=True):
    entries = [(f'{name}.{part}', (chs,)) for part in ('weight', 'bias', 'running_mean', 'running_var')]
    return entries + ([(f'{name}.num_batches_tracked', ())] if count else [])


def linear(name, chs, classes=100):
    return [(f'{name}.weight', (classes, chs)), (f'{name}.bias', (classes,))]


# -- networks ----------------------------------------------------------------------------------------------------------


def stage(name, block, in_chs, planes, depth):
    """A stage of residual blocks; `block` gives the entries of one and its channels out."""
    keys = []
    for i in range(depth):
        entries, in_chs = block(f'{name}.{i}', in_chs, planes)
        keys += entries
    return keys, in_chs


def residual(expansion, shortcut='downsample'):
    """The block of a ResNet. Of all stages here, only those whose channels change need a shortcut."""

    def block(name, in_chs, planes):
        out_chs = planes * expansion
        sizes = [(3, planes, in_chs), (3, planes, planes)]
        if expansion == 4:
            sizes = [(1, planes, in_chs), (3, planes, planes), (1, out_chs, planes)]
        keys = []
        for i, (kernel, outs, ins) in enumerate(sizes, 1):
            keys += conv(f'{name}.conv{i}', outs, ins, kernel) + norm(f'{name}.bn{i}', outs)
        if shortcut and in_chs != out_chs:
            keys += conv(f'{name}.{shortcut}.0', out_chs, in_chs, 1) + norm(f'{name}.{shortcut}.1', out_chs)
        return keys, out_chs

    return block


def pre_activation(shortcut):
    def block(name, in_chs, planes):
        keys = norm(f'{name}.bn1', in_chs) + conv(f'{name}.conv1', planes, in_chs)
        keys += norm(f'{name}.bn2', planes) + conv(f'{name}.conv2', planes, planes)
        return keys + (conv(f'{name}.{shortcut}', planes, in_chs, 1) if in_chs != planes else []), planes

    return block


def resnet(block, depths, widths, stem, branches=(), fc='fc', kernel=3):
    """ResNets of RepDistiller and DHM; `branches` are the depths of DHM's head2 and head1."""
    keys = conv('conv1', stem, 3, kernel) + norm('bn1', stem)
    chs, taps = stem, []
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        entries, chs = stage(f'layer{i}', block, chs, width, depth)
        keys += entries
        taps.append(chs)
    keys += linear(fc, chs)
    if branches:
        last = len(depths)
        early, late = branches
        entries, chs = stage(f'layer{last - 1}_head2', block, taps[-3], widths[-2], early[0])
        keys += entries
        entries, chs = stage(f'layer{last}_head2', block, chs, widths[-1], early[1])
        keys += entries + linear('fc_head2', chs)
        entries, chs = stage(f'layer{last}_head1', block, taps[-2], 2 * widths[-1], late)
        keys += entries + linear('fc_head1', chs)
    return keys


def wrn(block, depth, width, prefix, stem, last, branches=False):
    n = (depth - 4) // 6
    keys, chs, taps = conv(stem, 16, 3), 16, []
    for i, base in enumerate((16, 32, 64), 1):
        entries, chs = stage(prefix.format(i), block, chs, base * width, n)
        keys += entries
        taps.append(chs)
    keys += norm(last, chs) + linear('fc', chs)
    if branches:
        entries, chs = stage('layer2_head2', block, taps[0], 32 * width, n)
        keys += entries
        entries, chs = stage('layer3_head2', block, chs, 64 * width, n // 2)
        keys += entries + norm('bn_head2', chs) + linear('fc_head2', chs)
        entries, chs = stage('layer3_head1', block, taps[1], 128 * width, n)
        keys += entries + norm('bn_head1', chs) + linear('fc_head1', chs)
    return keys


def dhm_wrn(depth, width):
    return wrn(pre_activation('shortcut'), depth, width, 'layer{}', 'conv', 'bn', branches=True)


def repdistiller_wrn(depth, width):
    return wrn(pre_activation('convShortcut'), depth, width, 'block{}.layer', 'conv1', 'bn1')


def dhm_densenet(n, growth, bottleneck, early, late):
    def block(name, in_chs, growth):
        if bottleneck:
            keys = norm(f'{name}.bn1', in_chs) + conv(f'{name}.conv1', 4 * growth, in_chs, 1)
            keys += norm(f'{name}.bn2', 4 * growth) + conv(f'{name}.conv2', growth, 4 * growth)
        else:
            keys = norm(f'{name}.bn', in_chs) + conv(f'{name}.conv', growth, in_chs)
        return keys, in_chs + growth

    def transition(name, chs):
        out_chs = chs // 2 if bottleneck else chs
        return norm(f'{name}.bn', chs) + conv(f'{name}.conv', out_chs, chs, 1), out_chs

    chs, taps = 2 * growth if bottleneck else 16, []
    keys = conv('conv1', chs, 3)
    for i in (1, 2, 3):
        entries, chs = stage(f'layer{i}', block, chs, growth, n)
        keys += entries
        if i < 3:
            entries, chs = transition(f'transition{i}', chs)
            keys += entries
            taps.append(chs)
    keys += norm('bn', chs) + linear('fc', chs)
    entries, chs = stage('layer2_head2', block, taps[0], growth, early[0])
    keys += entries
    entries, chs = transition('transition2_head2', chs)
    keys += entries
    entries, chs = stage('layer3_head2', block, chs, growth, early[1])
    keys += entries + norm('bn_head2', chs) + linear('fc_head2', chs)
    entries, chs = stage('layer3_head1', block, taps[1], 3 * growth, late)
    return keys + entries + norm('bn_head1', chs) + linear('fc_head1', chs)


def repdistiller_vgg(depths):
    keys, chs = [], 3
    for i, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512, 512), strict=True)):
        for j in range(depth):
            keys += conv(f'block{i}.{3 * j}', width, chs) + [(f'block{i}.{3 * j}.bias', (width,))]
            keys += norm(f'block{i}.{3 * j + 1}', width)
            chs = width
    return keys + linear('classifier', 512)


def cifar_resnet(depth, wide=False, **kwargs):
    widths, stem = ((64, 128, 256), 32) if wide else ((16, 32, 64), 16)
    return resnet(residual(1, **kwargs), ((depth - 2) // 6,) * 3, widths, stem)


def dhm_cifar_resnet(depth, early, late):
    return resnet(residual(1, shortcut=None), ((depth - 2) // 6,) * 3, (16, 32, 64), 16, (early, late))


def dhm_imagenet_resnet(depth, branches):
    layers = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    return resnet(residual(1 if depth < 50 else 4), layers, (64, 128, 256, 512), 64, branches, kernel=7)


# peer's name -> its keys, our name, our arguments, our design
NETWORKS = {
    **{f'RepDistiller resnet{d}': (cifar_resnet(d), f'cifar_resnet{d}') for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f'RepDistiller resnet{d}x4': (cifar_resnet(d, wide=True), f'cifar_resnet{d}x4') for d in (8, 32)},
    **{
        f'RepDistiller ResNet{d}': (
            resnet(residual(e, 'shortcut'), layers, (64, 128, 256, 512), 64, fc='linear'),
            f'cifar_resnet{d}',
        )
        for d, e, layers in ((18, 1, (2, 2, 2, 2)), (50, 4, (3, 4, 6, 3)))
    },
    **{
        f'RepDistiller wrn_{d}_{k}': (repdistiller_wrn(d, k), f'cifar_wrn{d}_{k}')
        for d, k in ((16, 1), (16, 2), (28, 4), (28, 10), (40, 1), (40, 2))
    },
    **{
        f'RepDistiller vgg{sum(depths) + 3}': (repdistiller_vgg(depths), f'cifar_vgg{sum(depths) + 3}')
        for depths in ((1, 1, 1, 1, 1), (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))
    },
    'DHM resnet32': (dhm_cifar_resnet(32, (5, 3), 5), 'cifar_resnet32', 'dks'),
    'DHM resnet110': (dhm_cifar_resnet(110, (9, 9), 18), 'cifar_resnet110', 'dks'),
    'DHM wrn_28_10': (dhm_wrn(28, 10), 'cifar_wrn28_10', 'dks'),
    'DHM densenet_40_12': (dhm_densenet(12, 12, False, (12, 6), 12), 'cifar_densenet40_12', 'dks'),
    'DHM densenet_100_12': (dhm_densenet(32, 12, False, (16, 16), 32), 'cifar_densenet100_12', 'dks'),
    'DHM densenet_bc_100_12': (dhm_densenet(16, 12, True, (16, 16), 32), 'cifar_densenetbc100_12', 'dks'),
    'DHM ImageNet resnet18': (dhm_imagenet_resnet(18, ((1, 2), 2)), 'dks_resnet18', 'dks'),
    'DHM ImageNet resnet34': (dhm_imagenet_resnet(34, ((3, 2), 3)), 'dks_resnet34', 'dks'),
    'DHM ImageNet resnet50': (dhm_imagenet_resnet(50, ((3, 2), 3)), 'dks_resnet50', 'dks'),
    'DHM ImageNet resnet101': (dhm_imagenet_resnet(101, ((12, 2), 3)), 'dks_resnet101', 'dks'),
    'DHM ImageNet resnet152': (dhm_imagenet_resnet(152, ((18, 2), 3)), 'dks_resnet152', 'dks'),
}
