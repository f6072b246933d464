"""Initial weights are distributed as documented in `dkszoo/models`, also in stages made later."""

import pytest
import zoo
from torch import nn

# network, layer, standard deviation of its weights
SPREADS = [
    ('cifar_resnet20', 'layer3.0.conv1', (2 / (9 * 64)) ** 0.5),
    ('cifar_wrn16_2', 'layer2.0.conv1', (2 / (9 * 64)) ** 0.5),
    ('cifar_densenet40_12', 'layer2.3.conv', (2 / (9 * 12)) ** 0.5),
    ('cifar_vgg8', 'layer2.1.conv', (2 / (9 * 128)) ** 0.5),
    ('cifar_mobilenet_v1', 'layer4.3.conv_dw', (2 / 9) ** 0.5),
    ('cifar_mobilenet_v1', 'layer4.3.conv_pw', (2 / 512) ** 0.5),
    ('cifar_mobilenet_v2_half', 'layer4.1.conv_dw', (2 / (9 * 480)) ** 0.5),
    ('cifar_shufflenet_v2', 'layer2.1.pw1.conv', (1 / (3 * 116)) ** 0.5),
]


@pytest.mark.parametrize(('name', 'layer', 'spread'), SPREADS)
def test_convolutions(name, layer, spread):
    model = zoo.fresh(name)
    stage, _, rest = layer.partition('.')
    index = int(stage.removeprefix('layer')) - 1
    made, _ = model.make_stage(index, model.feature_info[index - 1]['num_chs'], model.stage_depths[index])
    for conv in (model.get_submodule(layer), made.get_submodule(rest)):
        assert conv.weight.std().item() == pytest.approx(spread, rel=0.06)
        assert conv.bias is None or (conv.bias == 0).all()
    for norm in (m for m in (*model.modules(), *made.modules()) if isinstance(m, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


# Outside the stages; ShuffleNetV2 has torch's defaults there too.
OUTER = [
    ('cifar_resnet20', 'conv1', (2 / (9 * 16)) ** 0.5),
    ('cifar_wrn16_2', 'conv1', (2 / (9 * 16)) ** 0.5),
    ('cifar_densenet40_12', 'conv1', (2 / (9 * 16)) ** 0.5),
    ('cifar_mobilenet_v1', 'conv1', (2 / (9 * 32)) ** 0.5),
    ('cifar_mobilenet_v2_half', 'conv1', (2 / (9 * 16)) ** 0.5),
    ('cifar_mobilenet_v2_half', 'conv2', (2 / 1280) ** 0.5),
]


@pytest.mark.parametrize(('name', 'layer', 'spread'), OUTER)
def test_stems_and_last_convolutions(name, layer, spread):
    weight = zoo.fresh(name).get_submodule(layer).weight
    assert weight.std().item() == pytest.approx(spread, rel=0.1)
    assert weight.abs().max() > 2.5 * spread  # torch's default is uniform, within less than 2.1 of these


def test_the_last_convolution_of_a_branch():
    (conv, *_), _ = zoo.fresh('cifar_mobilenet_v2_half').make_norm(160)
    assert conv.weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.06)


@pytest.mark.parametrize('name', ['cifar_vgg13', 'cifar_mobilenet_v2_half'])
def test_classifiers_that_start_small(name):
    classifier = zoo.fresh(name).get_classifier()
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.06)
    assert (classifier.bias == 0).all()


def test_only_blocks_of_1202_layers_start_as_their_shortcut():
    deep = zoo.fresh('cifar_resnet1202', layers=(2, 1, 1))
    assert all((deep.get_submodule(block).bn2.weight == 0).all() for block in ('layer1.0', 'layer1.1', 'layer3.0'))
    for name in ('cifar_resnet8', 'dks_resnet18'):
        assert (zoo.fresh(name).layer1[0].bn2.weight == 1).all()


def test_the_last_norm_of_a_bottleneck_is_its_third():
    block = zoo.fresh('cifar_resnet50', layers=(1, 1, 1, 1), zero_init_last=True).layer4[0]
    assert [norm.weight.sum().item() for norm in (block.bn1, block.bn2, block.bn3)] == [512, 512, 0]


def test_the_classifier_of_a_wrn_starts_without_bias():
    assert (zoo.fresh('cifar_wrn16_2').get_classifier().bias == 0).all()
