"""`cost` against networks that are built and counted."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import dkszoo
from benchmarks.reliability.runs import PLAIN
from dkszoo.branches import attach_branches
from dkszoo.branches.costs import Cost, Part, Traffic, measure


def counted(run):
    # torch 2.14 does not count the CPU's fused attention
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def num_params(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ('name', 'design', 'size'),
    [
        ('cifar_resnet20', 'dks', 32),
        ('cifar_densenet40_12', 'bottleneck', 32),
        ('test_convnext', 'mirror', 96),
        ('test_vit', 'linear', 160),
        ('swin_tiny_patch4_window7_224', 'linear', 224),
    ],
)
def test_parameters_and_flops(name, design, size):
    net = attach_branches(timm.create_model(name, num_classes=10), design).eval()
    found = dkszoo.cost(name, design, img_size=size, batch_size=4, num_classes=10)
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        stages = net(image).stages
    assert found.backbone.num_params == num_params(net.backbone)
    assert [b.num_params for b in found.branches] == [num_params(b) for b in net.branches]
    assert found.num_params == num_params(net)
    assert found.backbone.flops == pytest.approx(counted(lambda: net.backbone(image)), rel=0.01)
    for part, branch, stage in zip(found.branches, net.branches, stages, strict=True):
        assert part.flops == pytest.approx(counted(lambda b=branch, s=stage: b(s)), rel=0.01)
    assert found.flops == pytest.approx(counted(lambda: net(image)), rel=0.01)


def test_a_network_in_hand_is_not_touched():
    net = attach_branches(timm.create_model('cifar_resnet8'), 'dks').train()
    before = copy.deepcopy(net.state_dict())
    rng = torch.get_rng_state()
    found = dkszoo.cost(net)
    assert torch.equal(torch.get_rng_state(), rng)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert found == dkszoo.cost('cifar_resnet8', 'dks') == dkszoo.cost(net.backbone, 'dks')
    assert found == dkszoo.cost(net.eval())
    assert found == dkszoo.cost(net.requires_grad_(False))  # what is frozen is counted too


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_another_type_than_float32_costs_the_same(dtype):
    net = timm.create_model('test_convnext').to(dtype)
    assert dkszoo.cost(net, 'linear') == dkszoo.cost('test_convnext', 'linear')


def test_a_large_network_takes_no_memory():
    """With values, the weights would take 8 GB."""
    found = dkszoo.cost('resnet18', 'dks', batch_size=1, num_classes=10**6)
    assert found.num_params > 2e9


def test_traffic():
    """Bytes read and written, in float32; a view costs nothing."""
    image = torch.empty(2, 3, device='meta')
    with Traffic() as traffic:
        image.view(6).relu()
        image.relu_()
    assert traffic.total == 2 * 4 * (6 + 6)
    assert measure('relu', nn.ReLU(), image.relu, batch_size=2)[0].traffic == 4 * (3 + 3)


def test_step_ratio():
    """Three passes and an update, computed by hand."""
    main = Part('backbone', 100, 1000, 50.0)
    branch = Part('layer1', 10, 500, 25.0)
    assert Cost(main, (), None, (3, 8, 8), 2).step_ratio == 1.0
    passes, update = 3 * 2 * (1000 + 10 * 50), 10 * 120 * 100
    extra = 3 * 2 * (500 + 10 * 25) + 10 * 120 * 10
    assert Cost(main, (branch,), 'dks', (3, 8, 8), 2).step_ratio == pytest.approx(1 + extra / (passes + update))


def test_without_branches():
    found = dkszoo.cost('cifar_resnet8', None)
    assert (found.branches, found.design, found.step_ratio) == ((), None, 1.0)
    assert len(found.lines()) == 2


def test_a_design_of_ones_own():
    found = dkszoo.cost('cifar_resnet8', {'branches': [{'tap': 1}]})
    assert found.lines()[0] == 'cost of one 3x32x32 image, branches custom:'
    found = dkszoo.cost('cifar_resnet8', {'name': 'mine', 'branches': [{'tap': 1}]})
    assert found.lines()[0] == 'cost of one 3x32x32 image, branches mine:'


@pytest.mark.parametrize(
    ('kwargs', 'reason'),
    [
        (dict(model='cifar_resnt8'), 'did you mean'),
        (dict(model='resnet18.a9_in1k'), "'resnet18' has no such tag"),
        (dict(model='cifar_resnet8', design='dsk'), "unknown design 'dsk'.*dks"),
        (dict(model='cifar_resnet8', batch_size=0), 'must be at least 1'),
        (dict(model='cifar_resnet8', img_size=-1), 'must be at least 1'),
        (dict(model='vit_tiny_patch16_224', img_size=64), 'does not take 3x64x64 images'),
    ],
)
def test_mistakes(kwargs, reason):
    with pytest.raises(ValueError, match=reason):
        dkszoo.cost(**kwargs)


def test_command(run_cli):
    code, out, err = run_cli('cost', 'resnet18', '--branches', 'dks', '--img-size', '64', '--batch', '8')
    assert (code, err) == (0, '')
    for figure in ('11,689,512 parameters', '53,483,512 parameters', 'branch at layer3', 'step of 8 images', '3x64x64'):
        assert figure in out
    code, out, _ = run_cli('cost', 'resnet18', '--taps', '1', 'layer3')
    assert code == 0
    assert 'step of 64 images' in out
    assert 'branch at layer1' in out
    assert 'branch at layer2' not in out


@pytest.mark.parametrize('channels', ['4,8,16', '(4, 8, 16)', '[4, 8, 16]'])
def test_lists_among_the_arguments_of_a_model(run_cli, channels):
    """As in timm, and as in YAML."""
    code, out, err = run_cli('cost', 'cifar_resnet8', '--model-kwargs', f'channels={channels}', 'stem_chs=4')
    assert code == 0, err
    net = timm.create_model('cifar_resnet8', channels=(4, 8, 16), stem_chs=4)
    assert f'{sum(p.numel() for p in net.parameters()):,} parameters' in out


def test_command_for_other_classes_and_channels(run_cli):
    out = run_cli('cost', 'cifar_resnet8', '--branches', 'none', '--num-classes', '10', '--in-chans', '1')[1]
    total = num_params(timm.create_model('cifar_resnet8', num_classes=10, in_chans=1))
    assert f'{total:,} parameters' in out


@pytest.mark.parametrize(
    ('arguments', 'last'),
    [
        (['resnet1'], "unknown model 'resnet1'"),
        (['resnet18.a9_in1k'], "'resnet18' has no tag 'a9_in1k'"),
        (['vit_tiny_patch16_224', '--branches', 'conv'], 'one resolution'),
        (['resnet18', '--taps', '9'], 'no tap 9'),
        (['resnet18', '--num-classes', '-1'], '--num-classes must be'),
        (['resnet18', '--in-chans', '-1'], '--in-chans must be'),
        (['resnet18', '--img-size', '0'], '--img-size must be'),
        (['resnet18', '-b', '0'], '--batch-size must be'),
        (['resnet18', '--branches', 'none', '--taps', '1'], '--taps without branches'),
        (['resnet18', '--model-kwargs', 'widht=3'], 'cannot make model'),
        (['resnet18', '--model-kwargs', 'layers=[0,0,0,0]'], 'it cannot be run without values'),
        (['resnet18', '--branches', 'nofile.yaml'], 'cannot read branch design'),
    ],
)
def test_mistakes_on_the_command_line(run_cli, arguments, last):
    code, _, err = run_cli('cost', *arguments)
    assert code == 2
    assert err.strip().splitlines()[-1].startswith('dkszoo: error: ')
    assert last in err


def test_the_training_log_starts_with_it(run_cli, caplog):
    with caplog.at_level('INFO'):
        code, _, err = run_cli(*PLAIN, '--epochs', '1')
    assert code == 0, err
    lines = [r.message for r in caplog.records]
    first = next(i for i, line in enumerate(lines) if line.startswith('cost of one 1x32x32 image, branches dks'))
    assert 'parameters' in lines[first + 1]
    assert first < next(i for i, line in enumerate(lines) if line.startswith('epoch 1'))


@pytest.mark.parametrize('name', ['resnet18', 'cifar_resnet8', 'convnext_atto'])
def test_counting_draws_no_number(name):
    before = torch.get_rng_state()
    dkszoo.cost(name)
    assert torch.equal(torch.get_rng_state(), before)
