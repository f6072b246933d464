"""Custom designs: read, rejected, recorded and rebuilt."""

import json
import warnings

import pytest
import timm
import torch
import yaml

import dkszoo
from dkszoo.branches import attach_branches

MINE = {
    'name': 'mine',
    'branches': [
        {'tap': 'layer1', 'stages': [2, {'blocks': 1, 'width': 0.5}], 'head': '2fc'},
        {'tap': 1, 'kind': 'conv', 'stages': [{'blocks': 3}]},
    ],
}


def backbone(name='cifar_resnet8', **kwargs):
    return timm.create_model(name, num_classes=5, **kwargs)


def test_a_dict():
    net = attach_branches(backbone(), MINE)
    out = net(torch.randn(2, 3, 32, 32))
    assert [f.shape for f in out.branch_features] == [(2, 32, 8, 8), (2, 64, 8, 8)]
    assert [z.shape for z in out.branch_logits] == [(2, 5), (2, 5)]
    assert len(net.branches[1].stages) == 3


def test_the_record_makes_the_same_branches_again():
    net = attach_branches(backbone(), MINE)
    record = json.loads(json.dumps(net.design))
    again = attach_branches(backbone(), yaml.safe_load(yaml.safe_dump(record)), list(net.taps))
    assert again.design == net.design
    again.branches.load_state_dict(net.branches.state_dict())


def test_taps_take_the_place_of_the_designs_own():
    design = {'branches': [{'kind': 'conv', 'stages': [1]}]}
    assert attach_branches(backbone(), design, 'layer2').taps == (1,)
    with pytest.raises(ValueError, match='1 branches, but 2 taps'):
        attach_branches(backbone(), design, [0, 1])
    with pytest.raises(ValueError, match='branch 1 of the design has no tap'):
        attach_branches(backbone(), design)


@pytest.mark.parametrize('kind', ['own', 'mirror', 'conv', 'sepconv', 'conv3x3', 'none'])
def test_every_kind(kind):
    entry = {'tap': 1, 'kind': kind, **({} if kind in ('mirror', 'none') else {'stages': [1]})}
    net = attach_branches(backbone(), {'branches': [entry]})
    assert net(torch.randn(2, 3, 32, 32)).branch_logits[0].shape == (2, 5)


def test_rows_of_mobilenet():
    design = {'branches': [{'tap': 2, 'stages': [{'blocks': [2, 1], 'width': 1}]}]}
    net = attach_branches(backbone('cifar_mobilenet_v2_half'), design)
    assert len(net.branches[0].stages[0]) == 3
    design['branches'][0]['stages'] = [2]
    with pytest.raises(ValueError, match='one number for each of its rows'):
        attach_branches(backbone('cifar_mobilenet_v2_half'), design)


@pytest.mark.parametrize(
    ('branch', 'reason'),
    [
        ({'tap': 0, 'stage': [1]}, "unknown key of a branch 'stage' .*stages"),
        ({'tap': 0, 'kind': 'conf', 'stages': [1]}, "'conf' .*conv"),
        ({'tap': 0, 'head': '3fc'}, "unknown head '3fc'"),
        ({'tap': 0, 'stages': [0]}, 'at least 1'),
        ({'tap': 0, 'stages': [True]}, 'at least 1'),
        ({'tap': 0, 'stages': ['two']}, 'at least 1'),
        ({'tap': 0, 'stages': [{'blocks': 1, 'width': -1}]}, 'positive factor'),
        ({'tap': 0, 'stages': [{'blocks': 1, 'width': 0}]}, 'positive factor'),
        ({'tap': 0, 'stages': [{'blocks': 10**9}]}, 'at most 10000'),
        ({'tap': 0, 'stages': [{'blocks': 1, 'width': float('inf')}]}, 'at most 100'),
        ({'tap': 0, 'kind': ['own'], 'stages': [1]}, 'unknown kind'),
        ({'tap': 0, 'stages': 3}, 'must be a list'),
        ({'tap': 0, 'kind': 'mirror', 'stages': [1]}, 'has no stages'),
        ({'tap': 0, 'kind': 'conv'}, 'needs stages'),
        ({'tap': 0, 'kind': 'conv', 'stages': [{'blocks': [1, 2]}]}, 'one number'),
        ({'tap': 0, 'kind': 'conv3x3', 'stages': [{'blocks': [1, 2]}]}, 'one number'),
        ({'tap': 0, 'kind': 'mirror', 'head': '2fc'}, 'copy of the main head'),
        ({'tap': 0, 'stages': [1, 1, 1]}, 'only 2 follow'),
        ({'tap': 1, 'kind': 'conv', 'stages': [1, 1]}, 'which 1 resolutions follow'),
        ({'tap': 7, 'stages': [1]}, 'no tap 7'),
        ({'tap': True, 'stages': [1]}, 'no tap True'),
    ],
)
def test_mistakes_are_named(branch, reason):
    with pytest.raises(ValueError, match=reason):
        attach_branches(backbone(), {'branches': [branch]})


@pytest.mark.filterwarnings('ignore:the path through')
@pytest.mark.parametrize(
    'name',
    [
        'cifar_resnet8',
        'cifar_wrn16_1',
        'cifar_densenet40_12',
        'cifar_mobilenet_v1',
        'cifar_shufflenet_v2',
        'cifar_vgg8',
        'resnet18',
    ],
)
def test_a_stage_keeps_a_channel_however_thin(name):
    net = attach_branches(
        backbone(name),
        {'branches': [{'tap': 'layer1' if name == 'resnet18' else 0, 'stages': [{'blocks': 1, 'width': 0.001}]}]},
        strict=False,
    )
    assert net(torch.randn(2, 3, 32, 32)).branch_logits[0].isfinite().all()


@pytest.mark.parametrize('kind', ['conv', 'sepconv', 'conv3x3'])
def test_convolutions_keep_a_channel_however_thin(kind):
    branch = {'tap': 1, 'kind': kind, 'stages': [{'blocks': 1, 'width': 0.001}]}
    net = attach_branches(backbone(), {'branches': [branch]})
    assert net(torch.randn(2, 3, 32, 32)).branch_features[0].shape[1] == 1


@pytest.mark.parametrize(
    ('name', 'kind', 'blocks', 'width', 'chs'),
    [
        ('cifar_resnet8', 'conv', 2, 0.5, 32),
        ('cifar_resnet8', 'conv3x3', 2, 2.0, 64),
        ('resnet50', 'conv', 1, 0.5, 256),  # of the 512 that such convolutions have at most
        ('resnet50', 'sepconv', 1, 0.5, 1024),
    ],
)
def test_widths_are_factors_on_the_networks_own(name, kind, blocks, width, chs):
    tap = 'layer3' if name == 'resnet50' else 1
    branch = {'tap': tap, 'kind': kind, 'stages': [{'blocks': blocks, 'width': width}]}
    with torch.device('meta'):
        net = attach_branches(backbone(name), {'branches': [branch]})
    assert net.branches[0].get_classifier().in_features == chs


@pytest.mark.parametrize('design', [{}, {'branches': []}, {'branches': [3]}, {'branchs': [{'tap': 0}]}])
def test_designs_without_branches(design):
    with pytest.raises(ValueError, match='branches'):
        attach_branches(backbone(), design)


def test_branches_stand_shallow_to_deep():
    early, late = {'tap': 0, 'stages': [1, 1]}, {'tap': 1, 'stages': [1]}
    for branches in ([late, early], [late, late]):
        with pytest.raises(ValueError, match='shallow to deep'):
            attach_branches(backbone(), {'branches': branches})


@pytest.mark.parametrize('kind', ['own', 'conv', 'sepconv'])
def test_equal_down_samplings(kind):
    """DKS, section 4.1: every path to a classifier has the same number of down-samplings; pooled heads are exempt."""
    design = {'branches': [{'tap': 0, 'kind': kind, 'stages': [1]}]}
    with pytest.raises(ValueError, match='has 1 down-samplings, the main one 2'):
        attach_branches(backbone(), design)
    with pytest.warns(UserWarning, match='1 down-samplings'):
        net = attach_branches(backbone(), design, strict=False)
    assert net(torch.randn(2, 3, 32, 32)).branch_features[0].shape[-2:] == (16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        attach_branches(backbone(), {'branches': [{'tap': 0, 'kind': 'none'}]})


def test_a_file(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(MINE))
    net = dkszoo.create_model('cifar_resnet8', branches=str(path), num_classes=5)
    assert net.design['name'] == 'mine'
    as_json = tmp_path / 'mine.json'
    as_json.write_text(json.dumps(MINE, indent='\t'))
    for same in (as_json, as_json.read_text()):
        assert dkszoo.create_model('cifar_resnet8', branches=str(same), num_classes=5).design == net.design
    path.write_text('[1, 2]')
    with pytest.raises(ValueError, match='holds no branch design'):
        dkszoo.create_model('cifar_resnet8', branches=str(path))
    with pytest.raises(ValueError, match='cannot read branch design'):
        dkszoo.create_model('cifar_resnet8', branches=str(tmp_path / 'other.yaml'))


def test_it_survives_training_and_export(tmp_path, run_cli):
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(MINE))
    command = ['train', '--model', 'cifar_resnet8', '--epochs', '1', '--train-num-samples', '128', '-b', '32']
    code, out, err = run_cli(*command, '--branches', str(path), '--export', 'out.safetensors')
    assert code == 0, err
    assert 'verified' in out
    card = json.loads((tmp_path / 'out.json').read_text())
    assert card['design']['name'] == 'mine'
    assert card['taps'] == [0, 1]
    path.write_text(yaml.safe_dump({**MINE, 'name': 'other'}))
    code, _, err = run_cli(*command, '--branches', str(path))
    assert code == 2
    assert '--branches' in err
