"""The losses against values and gradients recorded from the public implementations."""

import pytest
import torch
from numpy_losses import FIXTURES, fixture_input, fixture_labels

from dkszoo.losses import attention_loss, deep_supervision_loss, kd_loss, synergy_loss

# The recorded numbers have seven digits; float32 adds rounding of its own.
TOLERANCES = {torch.float64: {'rel': 2e-6, 'abs': 1e-12}, torch.float32: {'rel': 2e-5, 'abs': 1e-8}}
DTYPES = pytest.mark.parametrize('dtype', TOLERANCES, ids=str)


def leaves(case, dtype):
    return {spec['name']: fixture_input(**spec).to(dtype).requires_grad_() for spec in case['inputs']}


def check(value, expected, inputs, grads, tolerance):
    assert value.item() == pytest.approx(expected, **tolerance)
    got = torch.autograd.grad(value, [inputs[name] for name in grads])
    for grad, recorded in zip(got, grads.values(), strict=True):
        assert grad.norm().item() == pytest.approx(recorded['l2'], **tolerance)
        assert grad.abs().sum().item() == pytest.approx(recorded['abs_sum'], **tolerance)
        assert grad.flatten()[:5].tolist() == pytest.approx(recorded['first5'], **tolerance)


@DTYPES
@pytest.mark.parametrize('case', FIXTURES['dks'], ids=lambda case: case['case'])
def test_official_dks_total(case, dtype):
    inputs = leaves(case, dtype)
    logits = list(inputs.values())
    total = deep_supervision_loss(logits, fixture_labels(**case['labels'])) + synergy_loss(logits, eps=1e-8)
    # With eps, nearly equal float32 numbers cancel in the smallest entries.
    tolerance = TOLERANCES[dtype] | ({'abs': 1e-6} if dtype == torch.float32 else {})
    check(total, case['total'], inputs, case['grad'], tolerance)


@pytest.mark.parametrize('case', FIXTURES['dks'], ids=lambda case: case['case'])
@pytest.mark.parametrize(('eps', 'key'), [(1e-8, 'kl_smoothed'), (0.0, 'kl_exact')])
def test_official_dks_pairs(case, eps, key):
    inputs = leaves(case, torch.float64)
    assert len(case[key]) == 6
    for pair, expected in case[key].items():
        teacher, student = pair[3:-1].split('||')
        loss = synergy_loss([inputs[student], inputs[teacher]], 'top-down', eps=eps)
        assert loss.item() == pytest.approx(expected, rel=2e-6)


@DTYPES
@pytest.mark.parametrize('case', FIXTURES['kd'], ids=lambda case: f'tau{case["tau"]}-{case["inputs"][0]["scale"]}')
def test_kd(case, dtype):
    inputs = leaves(case, dtype)
    loss = kd_loss(inputs['logits_s'], inputs['logits_t'], case['tau'])
    check(loss, case['value'], inputs, case['grad'], TOLERANCES[dtype])


@DTYPES
@pytest.mark.parametrize('case', FIXTURES['at'], ids=lambda case: f'p{case["p"]}')
def test_attention(case, dtype):
    inputs = leaves(case, dtype)
    student, teacher = ([inputs[f'{side}{i}'] for i in range(4)] for side in 'st')
    check(attention_loss(student, teacher, case['p']), case['value'], inputs, case['grad'], TOLERANCES[dtype])
    for s, t, expected in zip(student, teacher, case['per_pair'], strict=True):
        assert attention_loss([s], [t]).item() == pytest.approx(expected, rel=2e-6)
