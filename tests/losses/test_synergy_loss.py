"""synergy_loss: values, gradients, pair sets and degenerate cases."""

import math
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy_losses import array, cross_entropy, heads, preset_matrix, softmax, synergy
from torch.testing import assert_close

from dkszoo.losses import synergy_loss

PRESETS = ('bidirectional', 'top-down', 'bottom-up')
MATRIX = [[0, 0.5, 2, 0], [1, 0, 0, 0.25], [0, 3, 0, 1], [0.1, 0, 0, 0]]
SETTINGS = [
    pytest.param({'pairs': pairs, 'form': form, 'eps': eps}, id=f'{pairs}-{form}-{eps}')
    for pairs in PRESETS
    for form in ('kl', 'ce')
    for eps in (0.0, 1e-8, 1e-2)
] + [
    pytest.param({'beta': MATRIX, 'form': form, 'eps': eps}, id=f'matrix-{form}-{eps}')
    for form in ('kl', 'ce')
    for eps in (0.0, 1e-2)
]


def matrix_of(settings, num_heads):
    return settings.get('beta') or preset_matrix(settings['pairs'], num_heads)


def pairwise(logits, matrix, form, eps):
    """The stop-gradient formula, one pair at a time, for autograd."""
    classes = logits[0].shape[1]
    total = 0.0
    for m, row in enumerate(matrix):
        for n, weight in enumerate(row):
            p = (F.softmax(logits[m], -1).detach() + eps) / (1 + classes * eps)
            log_q = ((F.softmax(logits[n], -1) + eps) / (1 + classes * eps)).log()
            if m != n:
                entropy = p * p.log() if form == 'kl' else 0.0
                total = total + weight * (entropy - p * log_q).sum(-1).mean()
    return total


@pytest.mark.parametrize('settings', SETTINGS)
def test_value_equals_numpy(settings):
    logits = heads(4)
    expected = synergy(logits, matrix_of(settings, 4), settings['form'], settings['eps'])
    assert synergy_loss(logits, **settings).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('settings', SETTINGS)
def test_gradient_equals_autograd_of_the_pairwise_formula(settings):
    logits = heads(4, seed=1)
    loss = pairwise(logits, matrix_of(settings, 4), settings['form'], settings['eps'])
    expected = torch.autograd.grad(1.7 * loss, logits)
    got = torch.autograd.grad(1.7 * synergy_loss(logits, **settings), logits)
    assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('num_heads', [2, 3, 7])
@pytest.mark.parametrize('pairs', PRESETS)
def test_any_number_of_heads(pairs, num_heads):
    logits = heads(num_heads, seed=2)
    matrix = preset_matrix(pairs, num_heads)
    assert synergy_loss(logits, pairs).item() == pytest.approx(synergy(logits, matrix), rel=1e-12)
    assert synergy_loss(logits, beta=matrix).item() == pytest.approx(synergy(logits, matrix), rel=1e-12)


def test_by_hand():
    # p_1 = (3/4, 1/4) from logits (ln 3, 0); p_2 = (1/2, 1/2), the main head. B = 1.
    # KL(p_1 || p_2) = 3/4 ln(3/2) + 1/4 ln(1/2) = 3/4 ln 3 - ln 2
    # KL(p_2 || p_1) = 1/2 ln(2/3) + 1/2 ln 2    = ln 2 - 1/2 ln 3       sum: 1/4 ln 3 = 0.274653
    # H(p_2, p_1)    = -1/2 ln(3/4) - 1/2 ln(1/4) = 1/2 ln(16/3)
    logits = [torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64, requires_grad=True)]
    logits.append(torch.zeros(1, 2, dtype=torch.float64, requires_grad=True))
    assert synergy_loss(logits).item() == pytest.approx(0.274653, abs=5e-7)
    assert synergy_loss(logits, 'top-down').item() == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-14)
    assert synergy_loss(logits, 'bottom-up').item() == pytest.approx(3 / 4 * math.log(3) - math.log(2), abs=1e-14)
    assert synergy_loss(logits, 'top-down', form='ce').item() == pytest.approx(math.log(16 / 3) / 2, abs=1e-14)
    # Gradient of head 1: p_1 - p_2 = (1/4, -1/4); of head 2 the opposite.
    first, second = torch.autograd.grad(synergy_loss(logits), logits)
    assert_close(first, torch.tensor([[0.25, -0.25]], dtype=torch.float64))
    assert_close(second, -first)


def test_ce_is_kl_plus_the_entropy_of_the_teachers():
    logits = heads(3, seed=3)
    entropies = [cross_entropy(softmax(array(z)), softmax(array(z))).mean() for z in logits]
    difference = synergy_loss(logits, 'top-down', form='ce') - synergy_loss(logits, 'top-down')
    assert difference.item() == pytest.approx(1 * entropies[1] + 2 * entropies[2], rel=1e-12)


def test_pairs_restrict_a_matrix():
    logits = heads(4, seed=4)
    for pairs in PRESETS:
        inside = preset_matrix(pairs, 4)
        kept = [[b * i for b, i in zip(*rows, strict=True)] for rows in zip(MATRIX, inside, strict=True)]
        assert synergy_loss(logits, pairs, beta=MATRIX).item() == pytest.approx(synergy(logits, kept), rel=1e-12)


def test_kinds_of_beta():
    logits = heads(4, seed=5)
    plain = synergy_loss(logits)
    assert synergy_loss(logits, beta=2.5).item() == pytest.approx(2.5 * plain.item(), rel=1e-14)
    assert synergy_loss(logits, beta=torch.tensor(2.5)).item() == pytest.approx(2.5 * plain.item(), rel=1e-14)
    assert synergy_loss(logits, beta=0).item() == 0
    tensor = torch.tensor(MATRIX, dtype=torch.float64)
    expected = synergy_loss(logits, beta=MATRIX)
    assert_close(synergy_loss(logits, beta=tensor), expected)
    assert_close(synergy_loss(logits, beta=tensor.numpy()), expected)
    for form in ('kl', 'ce'):
        got = synergy_loss(logits, beta=tensor + 9 * torch.eye(4, dtype=torch.float64), form=form)
        assert_close(got, synergy_loss(logits, beta=MATRIX, form=form), msg='the diagonal of a tensor is ignored')


def test_a_weight_does_not_change_the_precision():
    beta = torch.tensor(2.5, dtype=torch.float64)
    assert synergy_loss(heads(2, dtype=torch.float32), beta=beta).dtype == torch.float32


@pytest.mark.parametrize(
    ('settings', 'untaught'),
    [({'pairs': 'top-down'}, 2), ({'pairs': 'bottom-up'}, 0), ({'beta': [[0, 0, 1], [1, 0, 1], [2, 0, 0]]}, 1)],
)
@pytest.mark.parametrize('eps', [0.0, 1e-8])
def test_only_taught_heads_learn(settings, untaught, eps):
    logits = heads(3, seed=6, dtype=torch.float32)
    grads = torch.autograd.grad(synergy_loss(logits, eps=eps, **settings), logits)
    assert [bool(grad.any()) for grad in grads] == [head != untaught for head in range(3)]


@pytest.mark.parametrize('settings', SETTINGS)
def test_one_head_has_no_pair(settings):
    settings = {**settings, **({'beta': [[0]]} if 'beta' in settings else {})}
    logits = heads(1, dtype=torch.float32)
    loss = synergy_loss(logits, **settings)
    assert loss.item() == 0
    assert loss.requires_grad
    assert not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize('pairs', [*PRESETS, 'matrix'])
@pytest.mark.parametrize('classes', [2, 1000])
def test_equal_and_nearly_equal_heads(pairs, classes):
    settings = {'beta': MATRIX} if pairs == 'matrix' else {'pairs': pairs}
    base = heads(1, batch=8, classes=classes, scale=5, dtype=torch.float32)[0]
    equal = [base.detach().clone().requires_grad_() for _ in range(4)]
    loss = synergy_loss(equal, **settings)
    assert loss.item() == 0
    assert all(grad.abs().max() < 1e-6 for grad in torch.autograd.grad(loss, equal))
    # One direction alone is limited by the precision of float32 log-probabilities; both together are not.
    exact = pairs == 'bidirectional'
    noise = heads(4, batch=8, classes=classes, scale=1, dtype=torch.float32)
    for size in (1e-6, 1e-4, 1e-2):
        near = [base.detach() + size * z.detach() for z in noise]
        expected = synergy(near, matrix_of(settings, 4))
        assert synergy_loss(near, **settings).item() == pytest.approx(
            expected, rel=1e-3, abs=2e-7 * size if exact else 2e-6
        )


def test_smoothing_caps_confident_heads():
    logits = [torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])]
    assert synergy_loss(logits).item() == pytest.approx(200)
    assert synergy_loss(logits, eps=1e-8).item() == pytest.approx(2 * math.log(1e8), rel=1e-5)


def test_saves_one_tensor_per_head():
    logits = heads(6)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        synergy_loss(logits)
    assert sum(saved) <= sum(z.numel() for z in logits)


def test_backward_twice():
    logits = heads(3)
    loss = synergy_loss(logits)
    once = torch.autograd.grad(loss, logits, retain_graph=True)
    assert_close(torch.autograd.grad(loss, logits), once)


def test_inputs_stay_untouched():
    logits = heads(3)
    before = [z.detach().clone() for z in logits]
    synergy_loss(logits, eps=1e-8).backward()
    synergy_loss(logits, beta=[[0, 1, 0], [1, 0, 1], [0, 1, 0]]).backward()
    assert all(torch.equal(z, b) for z, b in zip(logits, before, strict=True))


COMPILER = os.environ.get('CXX') or next(filter(shutil.which, ('c++', 'g++', 'clang++')), None)
NEEDS_COMPILER = pytest.mark.skipif(COMPILER is None, reason='there is no C++ compiler')
COMPILED = [{}, {'pairs': 'top-down', 'form': 'ce'}, {'beta': MATRIX}, {'eps': 1e-8, 'beta': 0.5}]


@pytest.mark.parametrize(
    ('backend', 'settings'),
    [
        *(('aot_eager', settings) for settings in COMPILED),
        pytest.param('inductor', {'pairs': 'top-down'}, marks=NEEDS_COMPILER),
    ],
)
def test_compiles_as_one_graph(backend, settings):
    torch._dynamo.reset()
    logits = heads(4, dtype=torch.float32)
    compiled = torch.compile(lambda *z: synergy_loss(z, **settings), fullgraph=True, backend=backend)
    loss, expected = compiled(*logits), synergy_loss(logits, **settings)
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'pairs': 'topdown'}, "'topdown'.*nearest: 'top-down'.*bidirectional, top-down, bottom-up"),
        ({'form': 'KL'}, "nearest: 'kl'.*kl, ce"),
        ({'eps': -1e-8}, 'eps: expected 0 or'),
        ({'eps': 1e-40}, 'eps: expected 0 or'),
        ({'eps': 1.0}, 'eps: expected 0 or'),
        ({'beta': -1.0}, 'beta: expected a weight >= 0, got -1.0'),
        ({'beta': math.inf}, 'beta: expected a weight >= 0, got inf'),
        ({'beta': [1.0, 1.0]}, '2 x 2 matrix'),
        ({'beta': [[0, 1]]}, '2 x 2 matrix'),
        ({'beta': torch.zeros(3, 3)}, r'2 x 2 matrix.*got shape \(3, 3\)'),
        ({'beta': [[0, -1], [1, 0]]}, r'beta\[0\]\[1\]: expected a finite weight >= 0, got -1.0'),
        ({'beta': [[0, math.nan], [1, 0]]}, 'finite weight'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        synergy_loss(heads(2), **settings)


def test_numbers_of_numpy_and_diagonals_are_taken():
    logits = heads(2)
    expected = synergy_loss(logits, beta=[[0, 0.5], [2, 0]])
    for beta in ([[1, 0.5], [2, math.nan]], np.array([[7, 0.5], [2, 7]]), [np.array([7, 0.5]), np.array([2, 7])]):
        assert torch.equal(synergy_loss(logits, beta=beta), expected)
    assert torch.equal(synergy_loss(logits, beta=np.float32(0.5)), synergy_loss(logits, beta=0.5))


def test_second_derivatives_are_refused():
    hidden = torch.randn(5, 7, requires_grad=True)
    with pytest.raises(RuntimeError, match='first derivatives only'):
        torch.autograd.grad(synergy_loss([hidden, hidden * hidden]), hidden, create_graph=True)


def test_bad_heads():
    with pytest.raises(ValueError, match='at least one head'):
        synergy_loss([])
    with pytest.raises(ValueError, match=r'logits\[1\]: shapes differ, got \(5, 8\), expected \(5, 7\)'):
        synergy_loss([torch.zeros(5, 7), torch.zeros(5, 8)])
    with pytest.raises(ValueError, match=r'expected logits of shape \(B, K\), got \(7,\)'):
        synergy_loss([torch.zeros(7)])
    with pytest.raises(ValueError, match='floating-point'):
        synergy_loss([torch.zeros(5, 7, dtype=torch.int64)])
