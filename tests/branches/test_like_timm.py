"""timm and torch treat a network with branches like the plain one."""

import copy
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3, freeze
from torch import nn

from dkszoo import DeepSupervisionTask
from dkszoo.branches import DeeplySupervised, attach_branches, strip
from dkszoo.branches.mirror import donor, start_afresh
from dkszoo.branches.output import to_map

NAMES = ['cifar_resnet8', 'cifar_densenet40_12', 'test_resnet', 'test_convnext', 'test_mambaout']


def make(name='cifar_resnet8', design='auto', **kwargs):
    torch.manual_seed(0)
    return attach_branches(timm.create_model(name, num_classes=5, **kwargs), design)


def images(net, batch=2):
    size = 160 if net.pretrained_cfg['input_size'][-1] > 32 else 32
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def outputs(out):
    return [out.logits, *out.branch_logits]


def loss(out):
    return sum(z.float().logsumexp(1).mean() for z in outputs(out))


def test_weight_decay_exemptions():
    net = make('swin_tiny_patch4_window7_224')
    plain = net.backbone.no_weight_decay()
    assert plain
    groups = create_optimizer_v2(net, 'sgd', lr=0.1, weight_decay=0.1, filter_bias_and_bn=False).param_groups
    free = {id(p) for group in groups if group['weight_decay'] == 0 for p in group['params']}
    tables = [(n, p) for n, p in net.named_parameters() if 'relative_position_bias_table' in n]
    assert {n.split('.')[0] for n, _ in tables} == {'backbone', 'branches'}
    assert all(id(p) in free for _, p in tables)
    assert all(id(p) not in free for n, p in net.named_parameters() if n.endswith('qkv.weight'))


def test_what_cannot_carry_branches():
    with pytest.raises(ValueError, match='is compiled'):
        attach_branches(torch.compile(timm.create_model('cifar_resnet8')))
    with pytest.raises(ValueError, match='without patch_drop_rate'):
        attach_branches(timm.create_model('test_vit', patch_drop_rate=0.5))


@pytest.mark.parametrize('name', ['davit_tiny', 'poolformerv2_s12'])
def test_stages_that_are_asked_one_by_one_to_recompute(name):
    net = attach_branches(timm.create_model(name, num_classes=3), 'mirror')
    net.set_grad_checkpointing()
    loss(net(torch.randn(2, 3, 64, 64))).backward()


def test_branches_of_ones_own_need_only_be_called():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 5)

        def forward(self, x):
            return x, self.fc(x.mean((2, 3)))

    net = DeeplySupervised(timm.create_model('cifar_resnet8', num_classes=5), [Own()], [0])
    assert net.no_weight_decay() == set()
    assert net.classifiers() == [net.backbone.get_classifier()]
    net.set_grad_checkpointing()
    task = DeepSupervisionTask(net, 'dks')
    task(images(net), torch.tensor([0, 1]))['loss'].backward()
    assert net.branches[0].fc.weight.grad.any()


@pytest.mark.parametrize('taps', [[0], [1, 0], [1, 1]])
def test_each_branch_has_a_tap_of_its_own(taps):
    net = make()
    with pytest.raises(ValueError, match='each branch needs a tap of its own'):
        DeeplySupervised(net.backbone, net.branches, taps)


def test_maps_come_as_they_are_asked_for():
    net = make()
    output, maps = net.forward_stages(images(net), (2, 0, 2))
    assert [m.shape[1] for m in maps] == [64, 16, 64]
    assert [m.shape[1] for m in output.stages] == [16, 32]


@pytest.mark.parametrize(
    ('name', 'grouped'),
    [('cifar_resnet8', True), ('test_convnext', True), ('test_convnext', False), ('test_vit', True)],
)
def test_layer_decay(name, grouped, monkeypatch):
    """Backbone layers get the same rates as without branches; branches count as the last layer, like the head."""
    net = make(name)
    if not grouped:
        monkeypatch.delattr(type(net.backbone), 'group_matcher')

    def scales(model):
        groups = param_groups_layer_decay(model, layer_decay=0.5)
        found = {id(p): group['lr_scale'] for group in groups for p in group['params']}
        return {n: found[id(p)] for n, p in model.named_parameters()}

    plain, deep = scales(net.backbone), scales(net)
    assert {n.removeprefix('backbone.'): s for n, s in deep.items() if n.startswith('backbone.')} == plain
    assert {s for n, s in deep.items() if n.startswith('branches.')} == {1.0}


def test_coarse_groups():
    net = make('cifar_densenet40_12')
    match = net.group_matcher(coarse=True)
    plain = group_parameters(net.backbone, net.backbone.group_matcher(coarse=True), reverse=True)
    assert {name: match(f'backbone.{name}') for name in plain} == plain


@pytest.mark.parametrize(('name', 'design'), [('cifar_resnet8', 'ap_2fc'), ('test_convnext', 'mirror')])
def test_agc_leaves_out_every_classifier(name, design):
    net = make(name, design)
    task = DeepSupervisionTask(net, 'ds')
    clipped = {id(p) for p in task.get_clip_parameters(exclude_head=True)}
    heads = [p for head in net.classifiers() for p in head.parameters()]
    assert len(net.classifiers()) == 3
    assert all(head.out_features == 5 for head in net.classifiers())
    assert not clipped & {id(p) for p in heads}
    assert len(clipped) == sum(1 for _ in net.parameters()) - len(heads)


@pytest.mark.parametrize('name', NAMES)
def test_gradient_checkpointing(name):
    check_gradient_checkpointing(make(name))


@pytest.mark.parametrize('design', ['dks', 'mirror', 'conv', 'linear', 'ap_conv_2fc', 'ap_2fc', 'bottleneck'])
def test_gradient_checkpointing_of_every_design(design):
    torch.manual_seed(0)
    check_gradient_checkpointing(attach_branches(timm.create_model('cifar_resnet8', num_classes=10), design))


@pytest.mark.parametrize('design', ['dks', 'mirror'])
def test_checkpointed_blocks_of_branches_run_again(design):
    net, calls = attach_branches(timm.create_model('cifar_resnet8', num_classes=5), design), []
    for branch in net.branches:
        *_, block = (m for m in branch.modules() if isinstance(m, type(net.backbone.layer3[-1])))
        block.register_forward_pre_hook(lambda *_: calls.append(None))
    for checkpointing, total in ((False, 2), (True, 2 + 4)):
        net.set_grad_checkpointing(checkpointing)
        loss(net(images(net))).backward()
        assert len(calls) == total


def check_gradient_checkpointing(net):
    x = images(net)
    grads = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net.zero_grad()
        copy.deepcopy(net)(x)  # norms have momentum, so both runs must start from the same statistics
        twin = copy.deepcopy(net)
        loss(twin(x)).backward()
        grads.append([p.grad for p in twin.parameters()])
    assert all(g is not None for g in grads[1])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_channels_last_and_autocast(name):
    net = make(name).eval()
    x = images(net)
    plain = outputs(net(x))
    net.to(memory_format=torch.channels_last)
    for a, b in zip(plain, outputs(net(x.to(memory_format=torch.channels_last))), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = net(x)
    assert all(z.dtype == torch.bfloat16 for z in outputs(out))
    loss(out).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ('name', 'design'),
    [
        ('cifar_resnet8', 'dks'),
        ('cifar_vgg8', 'mirror'),
        pytest.param('cifar_wrn16_1', 'narrow', marks=pytest.mark.slow),
        pytest.param('cifar_densenet40_12', 'dks', marks=pytest.mark.slow),
        pytest.param('cifar_mobilenet_v1', 'dks', marks=pytest.mark.slow),
        pytest.param('cifar_mobilenet_v2_half', 'dks', marks=pytest.mark.slow),
        pytest.param('cifar_shufflenet_v2', 'bottleneck', marks=pytest.mark.slow),
        pytest.param('cifar_resnet8', 'ap_conv_2fc', marks=pytest.mark.slow),
    ],
)
def test_compile_captures_one_graph(name, design):
    torch._dynamo.reset()
    net = make(name, design)
    x = images(net)
    compiled = torch.compile(net, backend='eager', fullgraph=True)
    for train in (True, False):
        net.train(train)
        twin = copy.deepcopy(net)
        for a, b in zip(outputs(twin(x)), outputs(compiled(x)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize('name', NAMES)
def test_ema(name):
    net = make(name)
    ema = ModelEmaV3(net, decay=0.5)
    before = [p.clone() for p in net.parameters()]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    ema.update(net)
    for mean, old in zip(ema.module.parameters(), before, strict=True):
        torch.testing.assert_close(mean, old + 0.5)
    assert list(strip(ema.module).state_dict()) == list(net.backbone.state_dict())


@pytest.mark.parametrize('name', NAMES)
def test_stripping_leaves_the_plain_network(name):
    net = make(name)
    loss(net(images(net))).backward()
    with torch.no_grad():
        for p in net.parameters():
            p.sub_(0.01 * p.grad)
    plain = timm.create_model(name, num_classes=5)
    plain.load_state_dict(strip(net).state_dict(), strict=True)
    net.eval()
    plain.eval()
    assert torch.equal(net(images(net)).logits, plain(images(net)))


class TestMirror:
    def test_it_starts_as_the_model_does(self):
        """Zeroed norms, layer scales and statistics are a fresh network's; no weights are shared."""
        backbone = timm.create_model('resnetv2_18', num_classes=5)
        with torch.no_grad():
            for value in backbone.state_dict().values():
                value.fill_(7)
        branch = attach_branches(backbone, 'mirror').branches[0]
        fresh = timm.create_model('resnetv2_18', num_classes=5).state_dict()
        state = branch.net.state_dict()
        assert set(state) < set(fresh)
        for key, value in state.items():
            if not value.is_floating_point():
                assert value == 0, key
            elif fresh[key].unique().numel() == 1:
                assert torch.equal(value, fresh[key]), key
            else:
                assert not torch.equal(value, fresh[key]), key
                assert value.std().item() == pytest.approx(fresh[key].std().item(), rel=0.2), key

    def test_a_frozen_backbone_gets_branches_that_train(self):
        backbone = timm.create_model('test_convnext', num_classes=5).requires_grad_(False)
        net = attach_branches(backbone, 'mirror')
        assert all(p.requires_grad for p in net.branches.parameters())
        assert not any(p.requires_grad for p in net.backbone.parameters())

    def test_what_it_does_not_use_requires_no_gradients(self):
        """DDP waits for every parameter that does."""
        backbone = timm.create_model('test_resnet', num_classes=5)
        backbone.idle = nn.Linear(3, 3)
        net = attach_branches(backbone, 'mirror')
        assert [p.requires_grad for name, p in net.branches.named_parameters() if '.idle.' in name] == [False] * 4

    @pytest.mark.parametrize('name', ['test_resnet', 'test_efficientnet'])
    def test_frozen_norms_are_no_norms_of_branches(self, name):
        backbone = timm.create_model(name, num_classes=5)
        freeze(backbone, [n for n, _ in backbone.named_children() if n not in ('fc', 'classifier')])
        frozen, fresh = (attach_branches(net, 'mirror') for net in (backbone, timm.create_model(name, num_classes=5)))
        named = lambda net: {n: p.shape for n, p in net.branches.named_parameters() if p.requires_grad}  # noqa: E731
        assert named(frozen) == named(fresh)
        assert frozen.branches.state_dict().keys() == fresh.branches.state_dict().keys()
        images = 3 + 5 * torch.randn(8, 3, 64, 64)
        features = frozen.train()(images).branch_features[0].detach()
        assert not torch.equal(features, frozen.eval()(images).branch_features[0])

    @pytest.mark.parametrize('name', ['cifar_resnet8', 'resnet18', 'test_resnet'])
    def test_norms_that_synchronise(self, name):
        plain = attach_branches(timm.create_model(name, num_classes=5))
        net = attach_branches(convert_sync_batchnorm(timm.create_model(name, num_classes=5)))
        assert net.design == plain.design
        assert {type(m) for m in net.branches.modules()} >= {nn.SyncBatchNorm}
        assert nn.BatchNorm2d not in {type(m) for m in net.modules()}
        assert net.state_dict().keys() == plain.state_dict().keys()

    def test_settings_of_the_backbone_hold(self):
        backbone = timm.create_model('test_resnet', num_classes=5, drop_path_rate=0.3, drop_rate=0.2)
        net = attach_branches(backbone, 'mirror').branches[1].net
        assert net.drop_rate == 0.2
        rates = [m.drop_prob for m in net.modules() if hasattr(m, 'drop_prob')]
        assert max(rates) == pytest.approx(0.3)

    def test_a_network_of_other_sizes_starts_by_its_modules(self):
        backbone = timm.create_model('test_resnet', num_classes=5, channels=(16, 24, 32, 40))
        branch = attach_branches(backbone, 'mirror').branches[0]
        norms = [m for m in branch.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all((m.running_var == 1).all() for m in norms)
        for key, value in branch.net.state_dict().items():
            if value.ndim == 4:
                assert not torch.equal(value, backbone.state_dict()[key])

    def test_heads_of_other_classes_start_as_the_model_does(self):
        net = attach_branches(timm.create_model('test_convnext', num_classes=5), 'mirror', num_classes=7)
        assert not any(branch.get_classifier().bias.any() for branch in net.branches)

    def test_only_a_network_of_its_class_is_its_like(self):
        backbone = timm.create_model('test_resnet', num_classes=5)
        assert type(donor(backbone, 5)) is type(backbone)
        backbone.__class__ = type('Own', (type(backbone),), {})
        assert donor(backbone, 5) is None

    @pytest.mark.parametrize('error', [TypeError, RuntimeError, AssertionError])
    def test_a_size_that_cannot_be_given_is_left_out(self, monkeypatch, error):
        backbone, create = timm.create_model('test_vit', num_classes=5), timm.create_model

        def without_size(name, **kwargs):
            if 'img_size' in kwargs:
                raise error
            return create(name, **kwargs)

        monkeypatch.setattr(timm, 'create_model', without_size)
        assert type(donor(backbone, 5)) is type(backbone)

    def test_it_starts_at_the_size_of_its_backbone(self):
        assert donor(timm.create_model('test_vit', img_size=96), 5).patch_embed.img_size == (96, 96)

    def test_what_cannot_start_afresh_is_refused(self):
        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.gamma = nn.Parameter(torch.ones(3))

        with pytest.raises(ValueError, match=r"'0.gamma' cannot be re-initialised"):
            start_afresh(nn.Sequential(Scale()), None, {'0.gamma'})
        start_afresh(nn.Sequential(Scale()), None, set())


def test_designs_differ_from_branch_to_branch():
    """Every branch has its own weights, even if two have the same shape."""
    net = make('test_convnext', 'mirror')
    first, second = (branch.net.state_dict() for branch in net.branches)
    key = 'stages.3.blocks.0.conv_dw.weight'
    assert not torch.equal(first[key], second[key])


def test_tokens_make_a_map_of_the_taps_form():
    tokens, tap = torch.arange(30.0).view(1, 10, 3), torch.empty(1, 5, 4, 8)
    found = to_map(tokens, tap, SimpleNamespace(num_features=3, num_prefix_tokens=2))
    assert found.shape == (1, 3, 2, 4)
    assert torch.equal(found[0, :, 1, 0], tokens[0, 2 + 4])
    assert to_map(tokens[:, 3:], None, SimpleNamespace(num_features=3)).shape == (1, 3, 7, 1)  # 7 is prime
    net = attach_branches(timm.create_model('test_vit', img_size=(48, 96), num_classes=3))
    output = net(torch.randn(1, 3, 48, 96))
    assert output.features.shape[-2:] == output.stages[-1].shape[-2:] == (3, 6)


def test_maps_of_either_layout():
    model = SimpleNamespace(num_features=4)
    for shape in ((1, 4, 2, 3), (1, 4, 3, 4)):
        assert to_map(torch.empty(shape), None, model).shape == shape
    assert to_map(torch.empty(1, 2, 3, 4), None, model).shape == (1, 4, 2, 3)
    tokens, fewer, final = torch.empty(1, 9, 4), torch.empty(1, 4, 4), torch.empty(1, 4, 2, 3)
    assert to_map((tokens, final, fewer), None, model) is final
    assert to_map([tokens, None, fewer], None, model).shape == (1, 4, 2, 2)


def test_a_task_is_grouped_as_its_network():
    """timm's optimizers can be given the task instead of the network."""
    net = make('swin_tiny_patch4_window7_224')
    task = DeepSupervisionTask(net, 'dks')

    def settings(model):
        groups = create_optimizer_v2(model, 'sgd', lr=0.1, weight_decay=0.1, layer_decay=0.5).param_groups
        return {id(p): (group['lr_scale'], group['weight_decay']) for group in groups for p in group['params']}

    assert settings(task) == settings(net)


def test_branches_are_attached_once():
    with pytest.raises(ValueError, match='has branches already'):
        attach_branches(make('cifar_resnet8'))


def test_distilled_training_is_named():
    backbone = timm.create_model('deit_tiny_distilled_patch16_224', num_classes=3, depth=3, img_size=64)
    net = attach_branches(backbone)
    backbone.set_distilled_training(True)
    with pytest.raises(ValueError, match='set_distilled_training'):
        net.train()(torch.randn(2, 3, 64, 64))
