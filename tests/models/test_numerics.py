"""Numerical tests of registered models below the size caps of `zoo`."""

import copy

import pytest
import timm
import torch
import zoo
from timm.models import get_notrace_functions, get_notrace_modules
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import dkszoo


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
@torch.no_grad()
def test_forward_paths_agree(name):
    model, x = zoo.real(name), zoo.images(name)
    logits = model(x)
    assert torch.isfinite(logits).all()
    final, taps = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert torch.equal(model.forward_head(final), logits)
    hidden = model.forward_head(final, pre_logits=True)
    assert torch.equal(model.get_classifier()(hidden), logits)
    listed = timm.create_model(name, features_only=True).eval()
    listed.load_state_dict(model.state_dict(), strict=False)
    for tap, feature in zip(taps, listed(x), strict=True):
        assert torch.equal(tap, feature)
    assert torch.equal(copy.deepcopy(model)(x), logits)
    zoo.assert_near(model(x.to(memory_format=torch.channels_last)), logits, 1e-4)
    zoo.assert_near(model.to(memory_format=torch.channels_last)(x), logits, 1e-4)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
@torch.no_grad()
def test_stage_takes_the_tap_before(name, train):
    model, x = zoo.real(name).train(train), zoo.images(name)
    modules = [info['module'] for info in model.feature_info]
    final, taps = model.forward_intermediates(x)
    first = 0 if name in zoo.CIFAR_NAMES else 1  # timm's ResNet has a max-pool between its stem and its first stage
    for i in range(first + 1, len(taps)):
        assert torch.equal(getattr(model, modules[i])(taps[i - 1]), taps[i])
    if name in zoo.CIFAR_NAMES:
        assert torch.equal(getattr(model, modules[0])(model.forward_stem(x)), taps[0])
        assert torch.equal(model.forward_norm(taps[-1]), final)


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
def test_gradients_and_checkpointing(name):
    model, x = zoo.real(name).train(), zoo.images(name)
    model.reset_classifier(42)
    again = copy.deepcopy(model)
    again.set_grad_checkpointing()
    assert again.grad_checkpointing
    assert not model.grad_checkpointing
    through_taps = copy.deepcopy(again)
    logits = model(x)
    assert logits.shape == (2, 42)
    logits.square().mean().backward()
    again(x).square().mean().backward()
    final, _ = through_taps.forward_intermediates(x)
    through_taps.forward_head(final).square().mean().backward()
    for (key, p), q, r in zip(model.named_parameters(), again.parameters(), through_taps.parameters(), strict=True):
        assert p.grad is not None, key
        assert torch.isfinite(p.grad).all(), key
        torch.testing.assert_close(q.grad, p.grad)
        torch.testing.assert_close(r.grad, p.grad)


@pytest.mark.parametrize('name', ['cifar_resnet8', 'cifar_wrn16_1', 'cifar_vgg8'])
def test_checkpointed_blocks_run_again(name):
    model, calls = zoo.fresh(name), []
    block = getattr(model, model.feature_info[-1]['module'])[-1]
    block.register_forward_pre_hook(lambda *_: calls.append(None))
    for checkpointing, total in ((False, 1), (True, 1 + 2)):
        model.set_grad_checkpointing(checkpointing)
        model(zoo.images(name)).sum().backward()
        assert len(calls) == total


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
@torch.no_grad()
def test_pretrained_weights_adapt(name, tmp_path):
    model = zoo.real(name)
    path = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), path)

    def load(**kwargs):
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs).eval()

    x = zoo.images(name, chans=1)
    zoo.assert_near(load(in_chans=1)(x), model(x.expand(-1, 3, -1, -1)), 1e-5)
    four = load(in_chans=4, num_classes=5)
    assert four.in_chans == 4
    assert four(zoo.images(name, chans=4)).shape == (2, 5)
    first_conv, classifier = (f'{model.default_cfg[key]}.weight' for key in ('first_conv', 'classifier'))
    own, adapted = model.state_dict(), four.state_dict()
    torch.testing.assert_close(adapted[first_conv], torch.cat([own[first_conv], own[first_conv][:, :1]], 1) * 0.75)
    assert all(torch.equal(adapted[key], own[key]) for key in own if key not in (first_conv, classifier, 'fc.bias'))
    x = zoo.images(name)
    assert torch.equal(load()(x), model(x))


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
@torch.no_grad()
def test_drop_rate(name):
    model, x = zoo.real(name), zoo.images(name)
    dropping = timm.create_model(name, drop_rate=0.5).eval()
    dropping.load_state_dict(model.state_dict())
    assert torch.equal(dropping(x), model(x))
    final = torch.ones(2, model.num_features, 3, 3)
    pooled = dropping.train().forward_head(final, pre_logits=True)
    assert set(pooled.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(model.train().forward_head(final, pre_logits=True), torch.ones_like(pooled))


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
@torch.no_grad()
def test_bfloat16(name):
    model, x = zoo.real(name), zoo.images(name)
    expected = model(x)
    logits = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert logits.dtype == torch.bfloat16
    assert F.cosine_similarity(logits.float(), expected).min() > 0.95


@pytest.mark.filterwarnings('ignore:`torch.jit.script` is deprecated')
@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
@torch.no_grad()
def test_torchscript(name):
    model, x = zoo.real(name), zoo.images(name)
    zoo.assert_near(torch.jit.script(model)(x), model(x), 1e-6)


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
@torch.no_grad()
def test_fx(name):
    model, x = zoo.real(name), zoo.images(name)
    kwargs = dict(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions())
    kwargs['param_shapes_constant'] = True
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=kwargs)
    traced = create_feature_extractor(
        model, train_return_nodes=train_nodes[-1:], eval_return_nodes=eval_nodes[-1:], tracer_kwargs=kwargs
    )
    (logits,) = traced(x).values()
    assert torch.equal(logits, model(x))
    features = timm.create_model(name, features_only=True, feature_cls='fx').eval()
    features.graph_module.load_state_dict(model.state_dict(), strict=False)
    for tap, feature in zip(model.forward_intermediates(x, intermediates_only=True), features(x), strict=True):
        assert torch.equal(feature, tap)


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.LIGHT))
def test_prune_intermediate_layers(name):
    model, x = zoo.real(name), zoo.images(name)
    last = len(model.feature_info) - 1
    with torch.no_grad():
        logits = model(x)
        taps = model.forward_intermediates(x, intermediates_only=True)
        kept = copy.deepcopy(model)
        kept.prune_intermediate_layers([last], prune_head=False)
        assert torch.equal(kept(x), logits)
        kept.prune_intermediate_layers([last], prune_norm=True, prune_head=False)
        assert len(kept(x)) == 2  # with the head only if it still fits
    for i in (1, last):
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([i], prune_norm=True) == [i]
        features = pruned.forward_features(x)
        assert torch.equal(features, taps[i])
        assert pruned.num_features == taps[i].shape[1]
        features.sum().backward()
        assert all(p.grad is not None for p in pruned.parameters())
        pruned.reset_classifier(7, 'avg')
        assert pruned(x).shape == (2, 7)


@pytest.mark.parametrize('name', zoo.some_by_default(zoo.SMALLEST, 'cifar_resnet8', 'cifar_mobilenet_v1'))
def test_compile(name):
    model, x = zoo.real(name).train(), zoo.images(name)
    compiled_model = copy.deepcopy(model)
    compiled = torch.compile(compiled_model, backend='aot_eager', fullgraph=True)
    model(x).square().mean().backward()
    compiled(x).square().mean().backward()
    for p, q in zip(model.parameters(), compiled_model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', zoo.SMALLEST)
@torch.no_grad()
def test_export(name):
    model, x = zoo.real(name), zoo.images(name)
    program = torch.export.export(model, (x,))
    zoo.assert_near(program.module()(x), model(x), 1e-6)


@pytest.mark.slow
def test_a_gradient_reaches_the_first_of_1202_layers():
    torch.manual_seed(0)
    net = dkszoo.create_model('cifar_resnet1202', num_classes=10, branches='dks')
    loss = dkszoo.DeepSupervisionTask(net, 'dks')(torch.randn(2, 3, 8, 8), torch.tensor([3, 7]))['loss']
    loss.backward()
    first = net.backbone.conv1.weight.grad
    assert first.isfinite().all()
    assert first.norm() > 1e-3
