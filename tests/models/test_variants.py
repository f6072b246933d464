"""Arguments of the networks: their effects, and rejected values."""

import pytest
import torch
import zoo


@torch.no_grad()
def test_dropout_between_the_convolutions_of_a_wide_block():
    block = zoo.fresh('cifar_wrn16_1', block_drop_rate=0.5).layer1[0]
    zeros = []
    block.conv2.register_forward_pre_hook(lambda _, args: zeros.append((args[0] == 0).float().mean().item()))
    images = torch.randn(16, 16, 8, 8)
    block.train()(images)
    block.eval()(images)
    assert zeros == [pytest.approx(0.75, abs=0.05), pytest.approx(0.5, abs=0.1)]  # half of them the ReLU's


def test_a_padded_shortcut_rounds_odd_sizes_up():
    model = zoo.meta('cifar_resnet8', shortcut='pad')
    assert model(torch.empty(2, 3, 33, 47, device='meta')).shape == (2, 100)


@pytest.mark.parametrize(
    ('name', 'arguments', 'rule'),
    [
        *(('cifar_wrn16_2', dict(depth=depth), r'6n \+ 4') for depth in (4, 15)),
        *(('cifar_densenet40_12', dict(depth=depth), r'3n \+ 4') for depth in (4, 41)),
        *(('cifar_densenetbc100_12', dict(depth=depth), r'6n \+ 4') for depth in (7, 43)),
    ],
)
def test_impossible_depths(name, arguments, rule):
    with pytest.raises(ValueError, match=f'depth must be {rule} with n of at least 1, got {arguments["depth"]}'):
        zoo.meta(name, **arguments)


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ({'shortcut': 'padded'}, "shortcut must be 'projection' or 'pad', got 'padded'"),
        ({'channels': (4, 8, 16, 32)}, r'expected 3 or 4 stages, got layers \(1, 1, 1\) and channels \(4, 8, 16, 32\)'),
    ],
)
def test_impossible_resnets(arguments, says):
    with pytest.raises(ValueError, match=says):
        zoo.meta('cifar_resnet8', **arguments)


@pytest.mark.parametrize(('width', 'features'), [(0.5, 1280), (2.0, 2560)])
def test_the_last_features_of_a_mobilenet_grow_but_do_not_shrink(width, features):
    assert zoo.meta('cifar_mobilenet_v2_half', width_mult=width).num_features == features


def test_channels_between_whole_numbers_are_rounded_down():
    """To an even number in a ShuffleNet, whose units have two halves."""
    made = {name: zoo.meta(name).make_stage(0, 16, 1, 0.36)[1] for name in ('cifar_resnet8', 'cifar_shufflenet_v2')}
    assert made == {'cifar_resnet8': 5, 'cifar_shufflenet_v2': 40}  # of 5.76 and 41.76


@pytest.mark.parametrize(('name', 'depth'), [('cifar_wrn16_2', 10), ('cifar_densenet40_12', 7)])
def test_the_smallest_depths(name, depth):
    assert zoo.meta(name, depth=depth).stage_depths == (1, 1, 1)


@pytest.mark.parametrize(
    'name', ['cifar_wrn16_1', 'cifar_densenet40_12', 'cifar_mobilenet_v2_half', 'cifar_shufflenet_v2']
)
def test_the_norm_of_a_branch_is_rectified_as_the_networks_is(name):
    norm, _ = zoo.fresh(name).make_norm(8)
    assert norm(torch.randn(2, 8, 4, 4)).min() == 0
