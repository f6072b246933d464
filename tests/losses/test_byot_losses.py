"""byot_self_kd_loss and byot_feature_loss."""

import math

import numpy as np
import pytest
import torch
from numpy_losses import array, cross_entropy, heads, softmax
from torch.testing import assert_close

from dkszoo.losses import byot_feature_loss, byot_self_kd_loss


@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_self_kd(tau):
    *branches, main = heads(4)
    target = softmax(array(main) / tau)
    expected = sum(cross_entropy(target, softmax(array(z) / tau)).mean() for z in branches)
    loss = byot_self_kd_loss(branches, main, tau)
    assert loss.item() == pytest.approx(expected, rel=1e-12)

    target = (main / tau).softmax(-1).detach()
    formula = sum(-(target * (z / tau).softmax(-1).log()).sum(-1).mean() for z in branches)
    got = torch.autograd.grad(loss, [*branches, main], allow_unused=True)
    assert_close(got[:3], torch.autograd.grad(formula, branches), rtol=0, atol=1e-10)
    assert got[3] is None


def test_self_kd_by_hand():
    # At tau 3, the main head's logits (3 ln 3, 0) give (3/4, 1/4); both branches are uniform: H = ln 2 each, no tau^2.
    main = torch.tensor([[3 * math.log(3.0), 0.0]])
    assert byot_self_kd_loss([torch.zeros(1, 2)] * 2, main).item() == pytest.approx(2 * math.log(2), rel=1e-6)
    # The main head against itself gives its entropy, ln 4 - 3/4 ln 3 = 0.562335.
    assert byot_self_kd_loss([main], main).item() == pytest.approx(0.562335, abs=1e-6)


def test_feature():
    *branches, main = heads(3, batch=6, classes=9)
    expected = sum(np.sqrt(((array(f) - array(main)) ** 2).sum()) for f in branches)
    loss = byot_feature_loss(branches, main)
    assert loss.item() == pytest.approx(expected, rel=1e-12)

    formula = sum((f - main.detach()).square().sum().sqrt() for f in branches)
    got = torch.autograd.grad(loss, [*branches, main], allow_unused=True)
    assert_close(got[:2], torch.autograd.grad(formula, branches), rtol=0, atol=1e-10)
    assert got[2] is None


def test_feature_by_hand():
    # Differences (3, 0; 0, 4): one norm over both samples, 5; the second branch's are (0, 2; 0, 0): 2.
    first, second = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    assert byot_feature_loss([first, second], torch.zeros(2, 2)).item() == pytest.approx(7.0)


@pytest.mark.parametrize('compiled', [False, True])
def test_equal_features_have_no_gradient(compiled):
    main = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    feature = main.clone().requires_grad_()
    function = torch.compile(byot_feature_loss, fullgraph=True, backend='aot_eager') if compiled else byot_feature_loss
    loss = function([feature], main)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, feature)[0].any()


def test_bad_arguments():
    z = torch.zeros(2, 3)
    for loss_function in (byot_self_kd_loss, byot_feature_loss):
        with pytest.raises(ValueError, match='at least one branch'):
            loss_function([], z)
        with pytest.raises(ValueError, match=r'\[1\]: shapes differ, got \(2, 4\), expected \(2, 3\)'):
            loss_function([z, torch.zeros(2, 4)], z)
    with pytest.raises(ValueError, match='tau: expected a finite temperature above 0, got -1'):
        byot_self_kd_loss([z], z, tau=-1)
    with pytest.raises(ValueError, match=r'main_logits: .* got \(3,\)'):
        byot_self_kd_loss([z[0]], z[0])
