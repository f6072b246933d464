"""kd_loss, feature_loss, hint_loss, their values per sample, and loss_weights."""

import math

import numpy as np
import pytest
import torch
from numpy_losses import array, heads, kl, maps, softmax
from torch.testing import assert_close

from dkszoo.losses import (
    feature_loss,
    feature_loss_per_sample,
    hint_loss,
    kd_loss,
    kd_loss_per_sample,
    loss_weights,
)


@pytest.mark.parametrize('tau', [1.0, 4.0])
@pytest.mark.parametrize('scale_tau2', [True, False])
def test_kd(tau, scale_tau2):
    student, teacher = heads(2, seed=1)
    per_sample = kl(softmax(array(teacher) / tau), softmax(array(student) / tau)) * (tau**2 if scale_tau2 else 1)
    assert array(kd_loss_per_sample(student, teacher, tau, scale_tau2)) == pytest.approx(per_sample, rel=1e-12)
    loss = kd_loss(student, teacher, tau, scale_tau2)
    assert loss.item() == pytest.approx(per_sample.mean(), rel=1e-12)

    p, q = ((z / tau).softmax(-1) for z in (teacher.detach(), student))
    formula = (tau**2 if scale_tau2 else 1) * (p * (p / q).log()).sum(-1).mean()
    (expected,) = torch.autograd.grad(formula, student)
    got, to_teacher = torch.autograd.grad(loss, [student, teacher], allow_unused=True)
    assert_close(got, expected, rtol=0, atol=1e-10)
    assert to_teacher is None


def test_kd_by_hand():
    # At tau 2, teacher logits (2 ln 3, 0) give (3/4, 1/4); the student is uniform.
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 3/4 ln 3 - ln 2 = 0.130812, times tau^2 = 4: 0.523248.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3.0), 0.0]])
    assert kd_loss(student, teacher, tau=2.0).item() == pytest.approx(0.523248, abs=1e-6)
    assert kd_loss(student, teacher, tau=2.0, scale_tau2=False).item() == pytest.approx(0.130812, abs=1e-6)


def test_kd_is_at_temperature_four_and_times_its_square_unless_given():
    student, teacher = heads(2, seed=1)
    for loss_function in (kd_loss, kd_loss_per_sample):
        assert torch.equal(loss_function(student, teacher), loss_function(student, teacher, 4.0, scale_tau2=True))


def test_kd_of_a_student_equal_to_its_teacher_is_zero():
    (student,) = heads(1, dtype=torch.float32)
    assert kd_loss(student, student).item() == 0


@pytest.mark.parametrize('loss_function', [feature_loss, hint_loss])
def test_feature_and_hint(loss_function):
    student, teacher = maps(3, 4, 2, 5, seed=1), maps(3, 4, 2, 5, seed=2)
    squares = (array(student) - array(teacher)) ** 2
    loss = loss_function(student, teacher)
    assert loss.item() == pytest.approx(squares.mean(), rel=1e-12)
    assert array(feature_loss_per_sample(student, teacher)) == pytest.approx(squares.mean((1, 2, 3)), rel=1e-12)

    (expected,) = torch.autograd.grad((student - teacher.detach()).pow(2).mean(), student)
    got, to_teacher = torch.autograd.grad(loss, [student, teacher], allow_unused=True)
    assert_close(got, expected, rtol=0, atol=1e-10)
    assert to_teacher is None


def test_feature_by_hand():
    # Differences 1, 1, 1, 3 of one sample: mean square 12 / 4 = 3; the other sample is equal: 0.
    student, teacher = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    student[0] = torch.tensor([[1.0, -1.0], [1.0, 3.0]])
    assert feature_loss(student, teacher).item() == 1.5
    assert feature_loss_per_sample(student, teacher).tolist() == [3.0, 0.0]


def test_per_sample_gradients_equal_the_formulas():
    student, teacher = heads(2, seed=3)
    weights = torch.linspace(0, 1, 5, dtype=torch.float64)
    p = teacher.detach().softmax(-1)
    formula = (weights * (p * (p.log() - student.log_softmax(-1))).sum(-1)).sum()
    got = torch.autograd.grad((weights * kd_loss_per_sample(student, teacher, tau=1.0)).sum(), student)
    assert_close(got, torch.autograd.grad(formula, student), rtol=0, atol=1e-10)
    formula = (weights * (student - teacher.detach()).pow(2).mean(1)).sum()
    got = torch.autograd.grad((weights * feature_loss_per_sample(student, teacher)).sum(), student)
    assert_close(got, torch.autograd.grad(formula, student), rtol=0, atol=1e-10)


def test_loss_weights():
    losses = torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weights = loss_weights(losses)
    assert array(weights) == pytest.approx(array(losses) / array(losses).sum(0), rel=1e-12)
    assert weights.dtype == torch.float64
    assert not weights.requires_grad
    assert_close(loss_weights(list(losses)), weights)


def test_loss_weights_by_hand():
    # Columns: 1 against 3; all 0; one branch at 0; noise below 0 counts as 0.
    losses = torch.tensor([[1.0, 0.0, 0.0, -1e-9], [3.0, 0.0, 2.0, 1e-9]])
    assert loss_weights(losses).tolist() == [[0.25, 0.5, 0.0, 0.0], [0.75, 0.5, 1.0, 1.0]]
    assert loss_weights(losses[:1]).tolist() == [[1.0] * 4]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('extreme', ['max', 'tiny'])
def test_loss_weights_of_extreme_losses(dtype, extreme):
    losses = torch.full((3, 4), getattr(torch.finfo(dtype), extreme), dtype=dtype)
    losses[0, 0] = 0
    weights = loss_weights(losses)
    assert weights.dtype == torch.float32
    assert array(weights[:, 1:]) == pytest.approx(np.full((3, 3), 1 / 3), rel=1e-6)
    assert weights[:, 0].tolist() == [0.0, 0.5, 0.5]


def test_bad_arguments():
    with pytest.raises(ValueError, match='tau: expected a finite temperature above 0, got 0'):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), tau=0)
    with pytest.raises(ValueError, match='above 0, got inf'):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), tau=float('inf'))
    with pytest.raises(ValueError, match=r'got \(2, 3\), expected \(2, 4\)'):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r'\(B, K\), got \(3,\)'):
        kd_loss(torch.zeros(3), torch.zeros(3))
    for loss_function in (feature_loss, feature_loss_per_sample, hint_loss):
        with pytest.raises(ValueError, match=r'got \(2, 3, 4, 4\), expected \(2, 3, 1, 1\)'):
            loss_function(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 1, 1))
    for losses in (torch.zeros(3), torch.zeros(0, 3), []):
        with pytest.raises(ValueError, match='per_sample_losses: expected'):
            loss_weights(losses)
