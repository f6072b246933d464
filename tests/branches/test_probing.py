"""Probing a backbone changes nothing in it, needs no values, and is not fooled."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision.ops import Permute

import dkszoo
from dkszoo.branches import attach_branches, list_designs
from dkszoo.branches.probe import Probe, count_halvings, front_modules, skeleton


def snapshot(model):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    return state, modes, grads, [id(p) for p in model.parameters()]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', ['cifar_resnet8', 'test_resnet', 'test_convnext', 'test_vit', 'test_mambaout'])
def test_nothing_changes_in_the_backbone(name, training):
    model = timm.create_model(name, num_classes=4, drop_rate=0.1).train(training)
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    calls = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    state, *rest = snapshot(model)
    torch.manual_seed(3)
    rng = torch.get_rng_state()
    list_designs(model)
    assert torch.equal(torch.get_rng_state(), rng)
    net = attach_branches(model)
    after, *after_rest = snapshot(model)
    assert net.backbone is model
    assert rest == after_rest
    assert all(torch.equal(value, after[key]) for key, value in state.items())
    assert calls == []
    assert all(branch.training == training for branch in net.branches)
    assert all(len(m._forward_hooks) == 1 for m in model.modules())
    assert not any(m._forward_hooks for m in net.branches.modules())


@pytest.mark.parametrize('name', ['cifar_densenet40_12', 'resnet18', 'test_convnext', 'test_vit', 'test_efficientnet'])
def test_the_meta_device(name):
    """The same designs, keys and shapes as with real values."""
    with torch.device('meta'):
        empty = attach_branches(timm.create_model(name, num_classes=4))
    net = attach_branches(timm.create_model(name, num_classes=4))
    assert empty.design == net.design
    assert all(p.is_meta for p in empty.parameters())
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (empty, net)]
    assert shapes[0] == shapes[1]
    assert list_designs(empty.backbone) == list_designs(net.backbone)


class Chain(nn.Module):
    """A timm-style classifier whose parts a test can change."""

    def __init__(self, skip=False, hidden=False, inplace=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stage1 = nn.Conv2d(8, 8, 3, 2, 1)
        self.stage2 = nn.Sequential(nn.ReLU(inplace=inplace), nn.Conv2d(8, 8, 3, 2, 1))
        self.fc = nn.Linear(8, 5)
        self.shift = nn.Parameter(torch.zeros(8, 1, 1))
        self.skip, self.hidden, self.num_classes, self.num_features = skip, hidden, 5, 8
        modules = ('stem', 'stage1', 'stage2')
        self.feature_info = [dict(num_chs=8, reduction=2 ** (i + 1), module=m) for i, m in enumerate(modules)]

    def forward_intermediates(self, x, indices=None, stop_early=False):
        taps = [self.stem(x)]
        if self.hidden:
            taps[0] = taps[0] + self.shift  # zero for now
        taps.append(self.stage1(taps[0]))
        final = self.stage2(taps[1])
        if self.skip:
            final = final + taps[0][..., ::4, ::4]
        taps.append(final)
        return final, [taps[i] for i in (indices or range(3))]

    def forward_features(self, x):
        return self.forward_intermediates(x)[0]

    def forward_head(self, x):
        return self.fc(x.mean((2, 3)))

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def test_a_plain_chain_can_be_mirrored():
    probe = Probe(Chain())
    assert probe.sizes() == [(112, 112), (56, 56), (28, 28)]
    assert probe.rerun(1).touched == {'stage2.1.weight', 'stage2.1.bias', 'fc.weight', 'fc.bias'}
    assert probe.following(0) == [(8, 1), (8, 1)]
    net = attach_branches(Chain(), 'mirror', [0, 1])
    assert len(net(torch.randn(2, 3, 64, 64)).branch_logits) == 2


def test_stages_of_one_resolution_are_one_step():
    with torch.device('meta'):
        probe = Probe(timm.create_model('cifar_densenet40_12'))
    assert probe.following(0) == [(probe.info[2]['num_chs'], 1)]
    assert probe.info[1]['num_chs'] != probe.info[2]['num_chs']


def test_a_stage_of_two_down_samplings_takes_two_blocks():
    net = Chain()
    net.stage2[1] = nn.Conv2d(8, 8, 3, stride=4, padding=1)
    branch = attach_branches(net, 'conv', [1]).branches[0]
    assert [block.conv1.stride for block in branch.stages] == [(2, 2), (2, 2)]
    with pytest.raises(ValueError, match='blocks 1 are too few for 2 down-samplings in one stage'):
        attach_branches(net, {'branches': [{'tap': 1, 'kind': 'conv', 'stages': [1]}]})


def test_a_path_around_the_tap_is_seen():
    probe = Probe(Chain(skip=True))
    with pytest.raises(ValueError, match='cannot be run again'):
        probe.rerun(1)


def test_a_parameter_that_does_nothing_yet_is_seen():
    """The shift is zero and changes no value, so comparing values would not detect it."""
    with pytest.raises(ValueError, match='cannot be run again'):
        Probe(Chain(hidden=True)).rerun(0)


def test_a_stage_that_overwrites_its_input():
    """The main path has modified the tap in place already; the branch must not modify it again."""
    net = attach_branches(Chain(inplace=True))
    assert net.design == 'conv'
    out = net(torch.randn(2, 3, 64, 64))
    (out.logits.sum() + sum(z.sum() for z in out.branch_logits)).backward()


class ChannelsLast(Chain):
    """Its layers work on [B, H, W, C]; the taps are views of what they read."""

    def __init__(self, inplace):
        super().__init__()
        self.stem = nn.Sequential(self.stem, Permute([0, 2, 3, 1]))
        self.stage1 = nn.Linear(8, 8)
        self.stage2 = nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(8, 8))

    def forward_intermediates(self, x, indices=None, stop_early=False):
        taps = []
        for stage in (self.stem, self.stage1, self.stage2):
            x = stage(x)
            taps.append(x.permute(0, 3, 1, 2))
        return taps[-1], [taps[i] for i in (indices or range(3))]


def test_a_view_of_what_a_stage_overwrites():
    assert Probe(ChannelsLast(inplace=False)).rerun(1).layout == 'NHWC'
    with pytest.raises(ValueError, match='cannot be run again'):
        Probe(ChannelsLast(inplace=True)).rerun(1)


def test_a_network_that_needs_values_still_gets_linear_branches():
    model = Chain()
    forward = model.stage1.forward
    model.stage1.forward = lambda x: forward(x) * float(x.mean())
    assert list_designs(model) == ['linear', 'ap_conv_2fc', 'ap_2fc']
    with pytest.raises(ValueError, match='without values'):
        attach_branches(model, 'mirror')
    assert attach_branches(model).design == 'linear'


def test_a_network_without_a_pool_cannot_be_mirrored():
    backbone = timm.create_model('convnext_atto', num_classes=10, global_pool='')
    with pytest.raises(ValueError, match=r'its logits are \(1, 10, 7, 7\), expected \(1, classes\)'):
        attach_branches(backbone, 'mirror')


def test_other_channels_and_sizes():
    for kwargs in ({'in_chans': 1}, {'in_chans': 4}):
        assert attach_branches(timm.create_model('test_resnet', num_classes=3, **kwargs)).design == 'mirror'
    model = timm.create_model('test_vit', num_classes=3, img_size=64)
    assert Probe(model).record.input_size == (3, 64, 64)


def test_a_network_of_small_images_that_does_not_say_so():
    class Small(Chain):
        def forward_intermediates(self, x, indices=None, stop_early=False):
            assert x.shape[-1] == 32
            return super().forward_intermediates(x, indices)

    assert Probe(Small()).record.input_size == (3, 32, 32)


def test_skeleton():
    model = timm.create_model('cifar_resnet8')
    twin = skeleton(model)
    assert all(t.is_meta for t in (*twin.parameters(), *twin.buffers()))
    assert list(twin.state_dict()) == list(model.state_dict())
    shared = skeleton(model, device=None)
    assert all(a is b for a, b in zip(shared.parameters(), model.parameters(), strict=True))


def test_a_network_that_keeps_tensors_of_its_last_evaluation():
    model = timm.create_model('levit_128s', num_classes=3).eval()
    model(torch.randn(1, 3, 224, 224))  # its attention caches biases, here with their graph
    cached = [m.attention_bias_cache for m in model.modules() if getattr(m, 'attention_bias_cache', None)]
    assert cached
    assert all(not t.is_leaf for cache in cached for t in cache.values())
    assert attach_branches(model, 'conv').backbone is model
    assert dkszoo.cost(model, 'linear').num_params > 0
    assert all(not t.is_leaf for cache in cached for t in cache.values())


@pytest.mark.parametrize(
    ('name', 'size', 'design'),
    [('levit_conv_128s', 64, 'mirror'), ('botnet26t_256', 96, 'mirror'), ('coat_lite_tiny', 64, 'conv')],
)
def test_a_network_built_for_another_size_than_it_tells(name, size, design):
    assert attach_branches(timm.create_model(name, num_classes=3, img_size=size)).design == design


def test_a_failure_without_words_is_named():
    class Silent(Chain):
        def forward_intermediates(self, x, indices=None, stop_early=False):
            raise AssertionError

    with pytest.raises(ValueError, match='cannot be run without values: AssertionError'):
        attach_branches(Silent(), 'conv')


class Flat(Chain):
    """Takes one size of images only, which it tells if asked to; none of those that are tried unasked."""

    def __init__(self, **cfg):
        super().__init__()
        self.pretrained_cfg = cfg
        self.fc = nn.Linear(8 * 5 * 5, 5)

    def forward_head(self, x):
        return self.fc(x.flatten(1))


def test_a_network_that_takes_one_size_of_images(caplog):
    """Simple heads for want of a size are said aloud, and what would help."""
    caplog.set_level('INFO')
    assert attach_branches(Flat()).design == 'linear'
    (record,) = caplog.records
    assert record.levelname == 'WARNING'
    assert 'design linear for Flat, at stem, stage1, as it cannot be run without values: ' in record.message
    assert "; if it takes one size of images only, set its pretrained_cfg = {'input_size': (C, H, W)}" in record.message
    caplog.clear()
    assert attach_branches(Flat(input_size=(3, 40, 40))).design == 'mirror'
    assert [record.levelname for record in caplog.records] == ['INFO']
    with pytest.raises(ValueError, match='cannot be run without values') as error:  # it tells a size, and a wrong one
        attach_branches(Flat(input_size=(3, 24, 24)), 'mirror')
    assert 'pretrained_cfg' not in str(error.value)


def test_the_cost_of_a_network_at_the_size_of_images_that_it_takes():
    assert dkszoo.cost(Flat(), None, img_size=40).input_size == (3, 40, 40)
    with pytest.raises(ValueError, match='cannot be run without values'):
        dkszoo.cost(Flat(), None)


@pytest.mark.parametrize(('name', 'design'), [('cifar_resnet8', 'dks'), ('test_efficientnet', 'conv')])
def test_a_pruned_network(name, design):
    """Its weights are computed, and hooks do so: a mirror would never learn."""
    model = timm.create_model(name, num_classes=3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.l1_unstructured(module, 'weight', 0.5)
    net = attach_branches(model)
    assert net.design == design
    assert 'mirror' not in list_designs(model)
    (sum(z.square().sum() for z in net(torch.randn(2, 3, 64, 64)).branch_logits)).backward()
    assert all(p.grad is not None for branch in net.branches for p in branch.parameters())


def test_a_resnet_with_replaced_convolutions():
    class Adapted(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(x)

    model = timm.create_model('resnet18', num_classes=3)
    model.layer1[0].conv1 = Adapted(model.layer1[0].conv1)
    assert attach_branches(model).design == 'mirror'
    with pytest.raises(ValueError, match='its convolutions were replaced'):
        attach_branches(model, 'dks')


def test_front_modules():
    model = timm.create_model('test_efficientnet')
    assert front_modules(model, 'blocks.1') == ['conv_stem', 'bn1', 'blocks.0', 'blocks.1']


@pytest.mark.parametrize(('size', 'smaller', 'halvings'), [(149, 73, 1), (224, 7, 5), (8, 8, 0), (7, 4, 1), (5, 3, 1)])
def test_halvings_do_not_mind_borders(size, smaller, halvings):
    assert count_halvings((size, size), (smaller, smaller)) == halvings
    assert count_halvings((size, 1), (smaller, 1)) == count_halvings((1, size), (1, smaller)) == halvings


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
@pytest.mark.parametrize('name', ['test_convnext', 'test_efficientnet', 'cifar_resnet8'])
def test_other_types_than_float32(name, dtype):
    net = attach_branches(timm.create_model(name, num_classes=4).to(dtype))
    assert net.design == attach_branches(timm.create_model(name, num_classes=4)).design
    assert {p.dtype for p in net.parameters()} == {dtype}


@pytest.mark.parametrize('make', [lambda: timm.create_model('dla34', num_classes=4), Chain])
def test_a_backbone_that_cannot_checkpoint(make):
    net = attach_branches(make(), 'linear')
    with pytest.raises(ValueError, match='no gradient checkpointing'):
        net.set_grad_checkpointing()
