"""Designs: blocks and widths of the papers, exact parameter counts, and rejections with a reason."""

import logging
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import freeze_batch_norm_2d
from torch import nn

import dkszoo
from dkszoo.branches import DESIGNS, attach_branches, default_taps, list_designs
from dkszoo.branches.designs import named_design
from dkszoo.branches.parts import Attention, ConvNormAct, ResidualConv, SepConv, TwoLayerHead
from dkszoo.branches.probe import Probe


def meta(name, **kwargs):
    with torch.device('meta'):
        return timm.create_model(name, **kwargs)


def num_params(module):
    return sum(p.numel() for p in module.parameters())


def specs(name, design='dks', taps=None, **kwargs):
    return named_design(design, Probe(meta(name, **kwargs)), taps)


# Training parameters with the papers' branches, measured in the public implementations.
TRAINING_PARAMS = [
    ('cifar_wrn28_10', {}, 164_146_364),
    ('cifar_resnet32', {'shortcut': 'pad'}, 2_147_644),
    ('cifar_resnet110', {'shortcut': 'pad'}, 7_770_108),
    ('cifar_densenet40_12', {}, 3_749_364),
    ('cifar_densenet100_12', {}, 23_776_604),
    ('cifar_densenetbc100_12', {}, 6_342_864),
    ('resnet18', {}, 53_483_512),
    ('resnet50', {}, 100_523_000),
    pytest.param('resnet101', {}, 129_569_784, marks=pytest.mark.slow),
    pytest.param('resnet152', {}, 151_916_536, marks=pytest.mark.slow),
    ('dks_resnet18', {}, 53_483_512),
    ('dks_resnet152', {}, 151_916_536),
]


@pytest.mark.parametrize(('name', 'kwargs', 'expected'), TRAINING_PARAMS)
def test_training_parameters(name, kwargs, expected):
    assert num_params(attach_branches(meta(name, **kwargs), 'dks')) == expected


def test_byot_parameters():
    backbone = meta('cifar_resnet18')
    assert num_params(backbone) == 11_220_132
    assert num_params(attach_branches(backbone, 'bottleneck')) == 12_283_344


# network -> blocks of the early and the late branch, width of the late one (DESIGN, section 6)
DKS = {
    'cifar_resnet8': ((1, 1), (1,), 2.0),
    'cifar_resnet20': ((3, 2), (3,), 2.0),
    'cifar_resnet32': ((5, 3), (5,), 2.0),
    'cifar_resnet44': ((7, 4), (7,), 2.0),
    'cifar_resnet56': ((9, 5), (9,), 2.0),
    'cifar_resnet110': ((9, 9), (18,), 2.0),
    'cifar_resnet1202': ((100, 100), (200,), 2.0),
    'cifar_resnet8x4': ((1, 1), (1,), 2.0),
    'cifar_resnet32x4': ((5, 3), (5,), 2.0),
    'cifar_wrn16_2': ((2, 1), (2,), 2.0),
    'cifar_wrn16_2 depth=10': ((1, 1), (1,), 2.0),
    'cifar_wrn28_4': ((4, 2), (4,), 2.0),
    'cifar_wrn40_1': ((6, 3), (6,), 2.0),
    'cifar_densenet40_12': ((12, 6), (12,), 3.0),
    'cifar_densenet100_12': ((16, 16), (32,), 3.0),
    'cifar_densenetbc100_12': ((16, 16), (32,), 3.0),
    'cifar_densenetbc100_12 depth=190 growth_rate=40': ((16, 16), (31,), 3.0),
    'cifar_densenetbc100_12 depth=250 growth_rate=24': ((22, 22), (41,), 3.0),
    'cifar_resnet18': ((1, 2), (2,), 2.0),
    'cifar_resnet50': ((3, 2), (3,), 2.0),
    'cifar_shufflenet_v2': ((8, 2), (4,), 2.0),
    'cifar_vgg8': ((1, 1), (2,), 2.0),
    'cifar_vgg13': ((2, 2), (4,), 2.0),
    'cifar_mobilenet_v2_half': (((4, 3), (2, 1)), ((3, 1),), 2.0),
    'cifar_densenet40_12 depth=52': ((16, 8), (16,), 3.0),
    'resnet18': ((1, 2), (2,), 2.0),
    'resnet26': ((2, 1), (2,), 2.0),
    'resnet34': ((3, 2), (3,), 2.0),
    'resnet50': ((3, 2), (3,), 2.0),
    'resnet101': ((12, 2), (3,), 2.0),
    'dks_resnet152': ((18, 2), (3,), 2.0),
}


@pytest.mark.parametrize('name', DKS)
def test_dks_blocks(name):
    early, late, width = DKS[name]
    name, *given = name.split()
    backbone = meta(name, **{key: int(value) for key, value in (pair.split('=') for pair in given)})
    first, second = named_design('dks', Probe(backbone), None)
    assert (first.stages, second.stages) == (tuple((b, 1.0) for b in early), tuple((b, width) for b in late))
    assert second.tap == first.tap + 1 == len(backbone.feature_info) - 2


def test_dks_blocks_of_a_cifar_resnet_26():
    """With bottlenecks the depths of ResNet-18 are another network's, which follows the rule."""
    early, late = specs('cifar_resnet50', layers=(2, 2, 2, 2))
    assert (early.stages, late.stages) == (((2, 1.0), (1, 1.0)), ((2, 2.0),))


# One network per class and shape of stages.
SMALL = ['cifar_resnet8', 'cifar_resnet8x4', 'cifar_resnet18', 'cifar_wrn16_2', 'cifar_densenet40_12', 'cifar_vgg8']
SMALL += ['cifar_mobilenet_v1', 'cifar_mobilenet_v2_half', 'cifar_shufflenet_v2', 'resnet18']
SMALL += [pytest.param('resnet50', marks=pytest.mark.slow)]


@pytest.mark.parametrize('name', SMALL)
def test_every_design_of_blocks_builds(name):
    backbone = meta(name)
    shape = timm.models.get_pretrained_cfg(name).input_size
    for design in ('dks', 'narrow', 'shallow', 'conv', 'bottleneck'):
        net = attach_branches(backbone, design, num_classes=7)
        out = net.eval()(torch.empty(2, *shape, device='meta'))
        assert [z.shape for z in out.branch_logits] == [(2, 7)] * len(net.taps)
        assert all(f.shape[-2:] == out.features.shape[-2:] for f in out.branch_features)
        assert {m.momentum for m in net.branches.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_shallower_and_single_taps():
    c4, c3, c2 = specs('resnet18', taps=[1, 2, 3])
    assert [s.stages for s in (c4, c3, c2)] == [
        ((2, 1.0), (1, 1.0), (2, 1.0)),
        ((1, 1.0), (2, 1.0)),
        ((2, 2.0),),
    ]
    assert specs('resnet18', taps='layer3') == specs('resnet18', taps='-2') == [c2]
    assert specs('cifar_resnet8', taps=-3) == specs('cifar_resnet8', taps=0)
    assert specs('resnet18', taps=np.array([1, 2, 3])) == [c4, c3, c2]
    assert specs('resnet18', taps=['layer2', 'layer1']) == [c4, c3]
    assert attach_branches(meta('resnet18'), 'dks', 'layer2').taps == (2,)


def test_table_3_heads():
    """DKS Table 3: half the width, one block per stage, and the two heads without blocks."""
    early, late = specs('cifar_resnet32', 'narrow')
    assert (early.stages, late.stages) == (((5, 0.5), (3, 0.5)), ((5, 1.0),))
    early, late = specs('cifar_mobilenet_v2_half', 'shallow')
    assert (early.stages, late.stages) == ((((1, 1), 1.0), ((1, 1), 1.0)), (((1, 1), 2.0),))
    backbone, chs, k = meta('cifar_resnet32'), 16, 100
    linear = chs * k + k
    assert num_params(attach_branches(backbone, 'linear', 0).branches) == linear
    assert num_params(attach_branches(backbone, 'ap_2fc', 0).branches) == chs * chs + chs + linear
    conv = 9 * chs * 2 * chs + 2 * (2 * chs)
    assert num_params(attach_branches(backbone, 'ap_conv_2fc', 0).branches) == conv + 2 * chs * chs + chs + linear


def test_branches_inherit_the_shortcut_and_dropout():
    branch = attach_branches(timm.create_model('cifar_resnet20', shortcut='pad'), 'dks').branches[0]
    assert not [name for name, _ in branch.named_parameters() if 'downsample' in name]
    net = attach_branches(timm.create_model('cifar_wrn16_1', block_drop_rate=0.3, drop_rate=0.2), 'dks')
    assert net.branches[1].stages[0][0].drop_rate == 0.3
    assert net.branches[1].head.drop.p == 0.2
    net = attach_branches(timm.create_model('cifar_resnet8', drop_rate=0.2), 'ap_2fc')
    assert net.branches[0].head.drop.p == 0.2


@pytest.mark.parametrize(('name', 'zeroed'), [('resnet18', True), ('dks_resnet18', False)])
def test_resnet_stages_start_as_the_network_does(name, zeroed):
    net = attach_branches(timm.create_model(name, num_classes=4, drop_path_rate=0.2), 'dks')
    for branch in net.branches:
        blocks = [block for stage in branch.stages for block in stage]
        assert all((block.bn2.weight == 0).all() == zeroed for block in blocks)
        assert blocks[-1].drop_path.drop_prob == pytest.approx(0.2)


def test_stages_of_a_resnet_have_its_type():
    net = attach_branches(meta('resnet18').double(), 'dks')
    assert {p.dtype for p in net.parameters()} == {torch.float64}


def test_maps_of_a_single_position():
    backbone = meta('resnet18', pretrained_cfg_overlay={'input_size': (3, 32, 32)})
    assert attach_branches(backbone.train(), 'conv').taps == (2, 3)


def test_a_resnet_of_a_name_that_takes_no_sizes(monkeypatch):
    backbone = meta('resnet18')
    expected = num_params(attach_branches(backbone, 'dks'))

    def without_sizes(name, **kwargs):
        raise TypeError("unexpected keyword argument 'layers'")

    monkeypatch.setattr(timm, 'create_model', without_sizes)
    assert num_params(attach_branches(backbone, 'dks')) == expected


def test_default_taps():
    assert default_taps(meta('resnet50')) == (2, 3)
    assert default_taps(meta('convnext_atto')) == (1, 2)
    assert default_taps(meta('efficientnet_b0')) == (2, 3)
    assert default_taps(meta('vit_tiny_patch16_224')) == (3, 7)
    assert default_taps(meta('vit_tiny_patch16_224', depth=2)) == (0,)
    assert default_taps(meta('cifar_densenet40_12')) == (0, 1)
    assert default_taps(meta('cifar_resnet18'), 3) == (0, 1, 2)
    net = meta('resnet18')
    net.feature_info = net.feature_info[-1:]
    with pytest.raises(ValueError, match='has only one stage'):
        default_taps(net)


def test_convolutions_after_a_tap_of_the_last_resolution():
    (spec,) = specs('resnet50', 'conv', 'layer3', output_stride=16)
    assert spec.stages == ((1, 1.0),)


@pytest.mark.parametrize(
    ('name', 'design'),
    [
        ('cifar_vgg8', 'dks'),
        ('resnet18', 'dks'),
        ('wide_resnet50_2', 'mirror'),
        ('convnext_atto', 'mirror'),
        ('swin_tiny_patch4_window7_224', 'mirror'),
        ('legacy_xception', 'conv'),
        ('vit_tiny_patch16_224', 'linear'),
    ],
)
def test_auto_takes_the_richest(name, design, caplog):
    with caplog.at_level(logging.INFO, 'dkszoo'):
        net = attach_branches(meta(name))
    assert net.design == design == list_designs(name)[0]
    lines = [r.message for r in caplog.records if r.message.startswith('branches: ')]
    assert len(lines) == 1
    assert design in lines[0]


def test_a_mirror_that_cannot_start_afresh_is_known_before_a_number_is_drawn():
    net = timm.create_model('convnext_atto', num_classes=10, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
    assert list_designs(net)[0] == 'conv'
    torch.manual_seed(3)
    chosen = attach_branches(net)
    torch.manual_seed(3)
    with pytest.raises(ValueError, match=r"design 'mirror' cannot work .* cannot be re-initialised"):
        attach_branches(net, 'mirror')
    named = attach_branches(net, 'conv')
    assert chosen.design == 'conv'
    assert all(map(torch.equal, chosen.branches.state_dict().values(), named.branches.state_dict().values()))


def test_a_frozen_network_of_other_widths_can_be_mirrored():
    net = freeze_batch_norm_2d(timm.create_model('resnet18', num_classes=10, channels=(8, 16, 32, 64)))
    assert 'mirror' in list_designs(net)
    assert attach_branches(net, 'mirror').branches


def test_a_branch_alone_and_in_company_of_one_seed():
    """DKS, Table 5: backbone and early branch start the same with and without the late branch, which is drawn last."""
    nets = []
    for taps in (None, 0, 1):
        torch.manual_seed(0)
        nets.append(attach_branches(timm.create_model('cifar_resnet8'), 'dks', taps))
    together, early, late = nets
    same = lambda one, two: all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))  # noqa: E731
    assert same(together.backbone, early.backbone)
    assert same(together.backbone, late.backbone)
    assert same(together.branches[0], early.branches[0])
    assert not same(together.branches[1], late.branches[0])


@pytest.mark.parametrize('name', DESIGNS)
def test_every_design_is_described(name):
    assert f'`{name}`' in (Path(__file__).parents[2] / 'docs/branches.md').read_text()


def test_list_designs():
    assert list_designs('cifar_resnet20') == list(DESIGNS) == list_designs(timm.create_model('cifar_resnet20'))
    assert list_designs('convnext_atto') == ['mirror', 'conv', 'linear', 'ap_conv_2fc', 'ap_2fc', 'bottleneck']
    assert list_designs('vit_tiny_patch16_224') == ['linear', 'ap_conv_2fc', 'ap_2fc']
    assert not {'conv', 'bottleneck'} & set(list_designs('crossvit_tiny_240'))  # its down-samplings differ
    assert dkszoo.list_designs is list_designs
    with pytest.raises(ValueError, match=r'did you mean .*cifar_resnet20'):
        list_designs('cifar_resnt20')


@pytest.mark.parametrize(
    ('name', 'kwargs', 'design', 'taps', 'reason'),
    [
        ('convnext_atto', {}, 'dks', None, 'no stages that can be made in other sizes'),
        ('wide_resnet50_2', {}, 'dks', None, 'layer1 is not the plain'),
        ('resnet50', {'output_stride': 16}, 'dks', None, 'layer4 is not the plain'),
        ('resnet18', {'layers': (1, 1, 0, 1)}, 'dks', None, 'one of its stages has no blocks'),
        ('resnet18', {}, 'dks', [0], "'act1' lies before the first stage"),
        ('vit_tiny_patch16_224', {}, 'mirror', None, 'cannot be run again'),
        ('vit_tiny_patch16_224', {}, 'conv', None, 'one resolution'),
        ('resnet18', {}, 'mirrors', None, "unknown design 'mirrors'.*mirror"),
        ('resnet18', {}, 'dks', ['layer9'], "no tap 'layer9'"),
        ('resnet18', {}, 'auto', ['layer4'], 'last stage'),
        ('resnet18', {}, 'auto', [-9], 'no tap -9'),
        ('resnet18', {}, 'auto', '--1', "no tap '--1'"),
        *(
            ('resnet18', {}, given, None, 'its contents as a dict')
            for given in ('d.yaml', 'd.json', '{"branches": []}')
        ),
        ('resnet18', {'num_classes': 0}, 'auto', None, 'need classes'),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(name, kwargs, design, taps, reason):
    with pytest.raises(ValueError, match=reason):
        attach_branches(meta(name, **kwargs), design, taps)


def test_num_classes_of_branches():
    net = attach_branches(meta('test_convnext', num_classes=0), 'mirror', num_classes=3)
    assert [c.out_features for c in net.classifiers()[1:]] == [3, 3]
    assert all(p.requires_grad for head in net.classifiers()[1:] for p in head.parameters())
    net = attach_branches(meta('cifar_resnet8'), num_classes=7)
    assert [c.out_features for c in net.classifiers()] == [100, 7, 7]
    with pytest.raises(ValueError, match='need classes'):
        attach_branches(meta('cifar_resnet8'), num_classes=0)


def test_what_has_no_stages_is_refused():
    with pytest.raises(ValueError, match='cannot carry branches'):
        attach_branches(nn.Linear(3, 4), num_classes=4)


def test_parts_of_branches():
    x = torch.randn(2, 4, 8, 8)
    assert Attention(4, {}).conv(x).shape[-2:] == (4, 4)
    assert (Attention(4, {})(x) / x).min() >= 0.5  # its mask is the sigmoid of a ReLU
    attention = Attention(4, {}).eval()
    mask = F.interpolate(attention.bn(attention.conv(x)).relu(), (8, 8), mode='bilinear').sigmoid()
    torch.testing.assert_close(attention(x), x * mask)
    assert [m.stride for m in SepConv(4, 8, 2, {}) if isinstance(m, nn.Conv2d)] == [(2, 2), (1, 1), (1, 1), (1, 1)]
    assert ResidualConv(4, 4, 1, {})(x).min() >= 0
    assert ResidualConv(16, 64, 1, {}).conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert ConvNormAct(16, 64, {})[0].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    head = TwoLayerHead(4, 8, 3, 0.0, {})
    torch.testing.assert_close(head(x), head.fc(head.fc1(x.mean((2, 3))).relu()))
    net = attach_branches(timm.create_model('cifar_resnet8'), 'ap_conv_2fc', 0)
    assert net(torch.randn(2, 3, 32, 32)).branch_features[0].shape[-2:] == (32, 32)
    wide = attach_branches(meta('resnet50'), 'conv')
    assert max(m.out_channels for m in wide.branches.modules() if isinstance(m, nn.Conv2d)) == 512
    assert all(m.bias is None for m in wide.branches.modules() if isinstance(m, nn.Conv2d))
    wide = attach_branches(meta('resnet50'), 'bottleneck')
    assert max(m.out_channels for m in wide.branches.modules() if isinstance(m, nn.Conv2d)) == 2048
