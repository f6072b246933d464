"""deep_supervision_loss."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy_losses import array, cross_entropy, heads, softmax
from torch.testing import assert_close

from dkszoo.losses import deep_supervision_loss

TARGET = torch.tensor([0, 6, 3, 3, 1])
ALPHAS = [(None, [1, 1, 1]), (0.7, [0.7, 0.7, 0.7]), (0, [0, 0, 0])]
ALPHAS += [([1, 0.5, 0], [1, 0.5, 0]), (torch.tensor(0.5), [0.5] * 3)]


def soft_target():
    return heads(1, seed=9)[0].detach().softmax(-1)


@pytest.mark.parametrize(('alpha', 'weights'), ALPHAS)
@pytest.mark.parametrize('kind', ['indices', 'probabilities'])
def test_value_equals_numpy(kind, alpha, weights):
    logits = heads(3)
    target = TARGET if kind == 'indices' else soft_target()
    probs = np.eye(7)[TARGET.numpy()] if kind == 'indices' else array(target)
    losses = [cross_entropy(probs, softmax(array(z))).mean() for z in logits]
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    assert deep_supervision_loss(logits, target, alpha).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_equals_autograd_of_the_formula():
    logits, y, alpha = heads(3), soft_target(), torch.tensor([1.0, 0.5, 2.0])
    formula = sum(a * -(y * z.softmax(-1).log()).sum(-1).mean() for a, z in zip(alpha, logits, strict=True))
    got = torch.autograd.grad(deep_supervision_loss(logits, y, alpha), logits)
    assert_close(got, torch.autograd.grad(formula, logits), rtol=0, atol=1e-10)


def test_by_hand():
    # Logits (ln 3, 0): p = (3/4, 1/4). CE with class 0 is ln(4/3), with class 1 ln 4; their mean is ln 4 - 1/2 ln 3.
    # A second branch with p = (1/2, 1/2) adds ln 2, at weight 2.
    logits = [torch.tensor([[math.log(3.0), 0.0]] * 2), torch.zeros(2, 2)]
    loss = deep_supervision_loss(logits, torch.tensor([0, 1]), alpha=[1, 2])
    assert loss.item() == pytest.approx(math.log(4) - math.log(3) / 2 + 2 * math.log(2), rel=1e-6)


def test_kinds_of_target():
    logits = heads(2, dtype=torch.float32)
    one_hot = F.one_hot(TARGET, 7).half()
    expected = deep_supervision_loss(logits, TARGET)
    assert_close(deep_supervision_loss(logits, one_hot), expected)
    assert_close(deep_supervision_loss(logits, one_hot.double()), expected)
    for dtype in (torch.uint8, torch.int32):
        assert_close(deep_supervision_loss(logits, TARGET.to(dtype)), expected)


@pytest.mark.parametrize(
    ('branches', 'target', 'alpha', 'message'),
    [
        ([], TARGET, None, 'at least one branch'),
        ([torch.zeros(5, 7)], TARGET[:4], None, r'class indices of shape \(5,\), got \(4,\)'),
        ([torch.zeros(5, 7)], torch.zeros(5, 8), None, r'got \(5, 8\), expected \(5, 7\)'),
        ([torch.zeros(5, 7)], TARGET, [1, 2], 'alpha: expected 1 weights, one per branch, got 2'),
        ([torch.zeros(5, 7, 1)], TARGET, None, r'expected logits of shape \(B, K\)'),
    ],
)
def test_bad_arguments(branches, target, alpha, message):
    with pytest.raises(ValueError, match=message):
        deep_supervision_loss(branches, target, alpha)


def test_weights_do_not_change_the_precision():
    logits, alpha = torch.zeros(5, 7), torch.tensor([1.0, 0.5], dtype=torch.float64)
    for dtype in (torch.float16, torch.float32, torch.float64):
        loss = deep_supervision_loss([logits.to(dtype)] * 2, TARGET, alpha)
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
