"""Properties of all losses: precision, autocast, extreme inputs, degenerate sizes, one graph."""

import inspect
import math

import pytest
import torch
from numpy_losses import maps
from torch.testing import assert_close

import dkszoo.losses
from dkszoo import losses as L

FIXED = torch.tensor([0.5, -1.0])
LABELS = torch.tensor([1, 0, 0, 1])

# Each loss as a function of two tensors of one shape. LOGITS take (B, K), MAPS take (B, C, H, W) with two channels.
LOGITS = {
    'synergy_loss': lambda a, b: L.synergy_loss([a, b]),
    'synergy_loss_top_down': lambda a, b: L.synergy_loss([a, b], 'top-down'),
    'synergy_loss_ce': lambda a, b: L.synergy_loss([a, b], form='ce'),
    'synergy_loss_smoothed': lambda a, b: L.synergy_loss([a, b], eps=1e-8),
    'synergy_loss_matrix': lambda a, b: L.synergy_loss([a, b], beta=[[0, 2], [0.5, 0]]),
    'deep_supervision_loss': lambda a, b: L.deep_supervision_loss([a, b], LABELS[: len(a)]),
    'deep_supervision_loss_soft': lambda a, b: L.deep_supervision_loss([a], b.detach().float().softmax(-1)),
    'kd_loss': L.kd_loss,
    'kd_loss_tau1': lambda a, b: L.kd_loss(a, b, tau=1.0),
    'kd_loss_per_sample': L.kd_loss_per_sample,
    'byot_self_kd_loss': lambda a, b: L.byot_self_kd_loss([a], b),
    'byot_feature_loss': lambda a, b: L.byot_feature_loss([a], b),
}
MAPS = {
    'feature_loss': L.feature_loss,
    'feature_loss_per_sample': L.feature_loss_per_sample,
    'hint_loss': L.hint_loss,
    'attention_loss': lambda a, b: L.attention_loss([a], [b]),
    'vid_loss': lambda a, b: L.vid_loss(a, b, FIXED),
}
ALL = [
    *(pytest.param(function, (4, 6), id=name) for name, function in LOGITS.items()),
    *(pytest.param(function, (4, 2, 6, 6), id=name) for name, function in MAPS.items()),
]
HALVES = (torch.float16, torch.bfloat16)


def pair(shape, dtype, scale=1.0):
    return [(maps(*shape, seed=seed).detach() * scale).to(dtype).requires_grad_() for seed in (1, 2)]


def value_and_grad(function, inputs):
    value = function(*inputs)
    return value, torch.autograd.grad(value.sum(), inputs[0])[0]


def test_every_loss_is_listed():
    covered = {*LOGITS, *MAPS, 'loss_weights', 'match_size'}
    assert set(dkszoo.losses.__all__) <= covered
    for name in dkszoo.losses.__all__:
        assert inspect.getdoc(getattr(dkszoo.losses, name))


@pytest.mark.parametrize(('function', 'shape'), ALL)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float32, torch.float64], ids=str)
def test_dtypes(function, shape, dtype):
    inputs = pair(shape, dtype)
    value, grad = value_and_grad(function, inputs)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert grad.dtype == dtype
    # Half inputs are computed in float32: only the inputs and the returned gradient are rounded.
    exact, exact_grad = value_and_grad(function, [z.detach().double().requires_grad_() for z in inputs])
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    assert_close(grad.double(), exact_grad, rtol=1e-2 if dtype in HALVES else 1e-4, atol=1e-6)


@pytest.mark.parametrize(('function', 'shape'), ALL)
@pytest.mark.parametrize('autocast', HALVES, ids=str)
def test_autocast_changes_nothing(function, shape, autocast):
    inputs = pair(shape, torch.float32)
    expected = value_and_grad(function, inputs)
    with torch.autocast('cpu', dtype=autocast):
        got = value_and_grad(function, inputs)
    assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize('function', LOGITS.values(), ids=LOGITS)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize('shape', [(1, 2), (4, 10), (1, 21_841)], ids=str)
@pytest.mark.parametrize('autocast', [False, True], ids=['plain', 'autocast'])
def test_extreme_logits(function, dtype, shape, autocast):
    signs = [z.detach().sign() * 1e4 for z in pair(shape, torch.float32)]
    one_hot = torch.full(shape, -1e4)
    one_hot[:, 1] = 1e4
    shared = torch.full(shape, 1e4)
    for a, b in [signs, (signs[0], signs[0]), (shared, shared), (one_hot, signs[1]), (one_hot, -one_hot)]:
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            value, grad = value_and_grad(function, [z.to(dtype, copy=True).requires_grad_() for z in (a, b)])
        assert value.isfinite().all()
        assert value.dtype == torch.float32
        assert (value > -1e-4).all()
        assert grad.isfinite().all()


@pytest.mark.parametrize('scale', [1.0, 0.1, 0.01])
def test_distillation_of_nearly_equal_predictions(scale):
    student, teacher = (z.detach() for z in pair((64, 10), torch.float32, scale))
    value = L.kd_loss_per_sample(student, teacher, tau=20.0)
    log_q, log_p = ((z.double() / 20).log_softmax(-1) for z in (student, teacher))
    exact = 400 * (log_p.exp() * (log_p - log_q)).sum(-1)  # KL by its definition; in float32 it would cancel
    assert (value >= 0).all()
    assert_close(value.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize('gap', [10.0, 80.0, 95.0, 200.0])
def test_distillation_of_confident_predictions_that_differ(gap):
    student, teacher = torch.tensor([[0.0, gap]]), torch.tensor([[gap, 0.0]])
    assert L.kd_loss(student, teacher, tau=1.0).item() == pytest.approx(gap * math.tanh(gap / 2), rel=1e-6)


@pytest.mark.parametrize('function', MAPS.values(), ids=MAPS)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize('shape', [(1, 2, 1, 1), (4, 2, 6, 6)], ids=str)
def test_extreme_maps(function, dtype, shape):
    large = pair(shape, dtype, scale=3e3)
    zero = torch.zeros(shape, dtype=dtype, requires_grad=True)
    for inputs in (large, [large[0], large[0].detach()], [zero, large[1]], [zero, zero.detach()]):
        value, grad = value_and_grad(function, inputs)
        assert value.isfinite().all()
        assert grad.isfinite().all()


def test_mixed_precision_heads():
    half, single = pair((4, 6), torch.float16)[0], pair((4, 6), torch.float32)[1]
    grads = torch.autograd.grad(L.synergy_loss([half, single]), [half, single])
    assert [grad.dtype for grad in grads] == [torch.float16, torch.float32]


@pytest.mark.parametrize(('function', 'shape'), ALL)
def test_compiles_as_one_graph(function, shape):
    torch._dynamo.reset()
    inputs = pair(shape, torch.float32)
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    assert_close(value_and_grad(compiled, inputs), value_and_grad(function, inputs))
