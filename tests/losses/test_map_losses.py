"""attention_loss, match_size and vid_loss."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy_losses import array, attention, block_mean, maps
from torch.testing import assert_close

from dkszoo.losses import attention_loss, match_size, vid_loss


@pytest.mark.parametrize('p', [1, 2, 3, 4])
def test_attention(p):
    student = [maps(3, 4, 6, 6, seed=1), maps(3, 5, 3, 3, seed=2), maps(3, 2, 4, 8, seed=3)]
    teacher = [maps(3, 7, 6, 6, seed=4), maps(3, 2, 6, 6, seed=5), maps(3, 2, 4, 4, seed=6)]
    squares = [
        (attention(array(student[0]), p) - attention(array(teacher[0]), p)) ** 2,
        (attention(array(student[1]), p) - attention(block_mean(array(teacher[1]), 2), p)) ** 2,
        # Only one dimension is larger: neighbours are averaged along it.
        (attention(array(student[2]).reshape(3, 2, 4, 4, 2).mean(-1), p) - attention(array(teacher[2]), p)) ** 2,
    ]
    loss = attention_loss(student, teacher, p)
    assert loss.item() == pytest.approx(sum(s.mean() for s in squares), rel=1e-12)

    def normalised(a):
        energy = a.abs().pow(p).mean(1).flatten(1)
        return energy / energy.square().sum(1, keepdim=True).sqrt()

    pooled = [student[0], student[1], F.avg_pool2d(student[2], (1, 2))]
    targets = [teacher[0], F.avg_pool2d(teacher[1], 2), teacher[2]]
    formula = sum(
        (normalised(s) - normalised(t).detach()).square().mean() for s, t in zip(pooled, targets, strict=True)
    )
    expected = torch.autograd.grad(formula, student)
    got = torch.autograd.grad(loss, student + teacher, allow_unused=True)
    assert_close(got[:3], expected, rtol=0, atol=1e-10)
    assert got[3:] == (None, None, None)


def test_attention_by_hand():
    # One channel, two positions. Student (3, 4): squares (9, 16), norm sqrt(337). Teacher (1, 0): (1, 0).
    # 1/2 [(9 / sqrt(337) - 1)^2 + 256 / 337] = 1 - 9 / sqrt(337) = 0.509739.
    student, teacher = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert attention_loss([student], [teacher]).item() == pytest.approx(0.509739, abs=1e-6)


@pytest.mark.parametrize('p', [1, 2])
def test_attention_of_dead_maps(p):
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_loss([dead], [maps(2, 3, 4, 4, dtype=torch.float32)], p)
    # Against 0 the squares of a normalised map sum to 1 per sample: 1 / (H W).
    assert loss.item() == pytest.approx(1 / 16, rel=1e-6)
    assert not torch.autograd.grad(loss, dead)[0].any()


def test_attention_does_not_see_scale():
    student, teacher = maps(2, 3, 4, 4, seed=1).detach(), maps(2, 3, 4, 4, seed=2).detach()
    expected = attention_loss([student], [teacher]).item()
    for scale in (1e-4, 1e4):
        assert attention_loss([student * scale], [teacher]).item() == pytest.approx(expected, rel=1e-9)


def test_match_size():
    small, large = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 8, 8)
    a, b = match_size(small, large)
    assert a is small
    assert array(b) == pytest.approx(block_mean(array(large), 2), abs=1e-6)
    a, b = match_size(large, small)
    assert a.shape == (2, 5, 4, 4)
    assert b is small


def test_vid():
    mean, target, log_scale = maps(3, 4, 2, 5, seed=1), maps(3, 4, 2, 5, seed=2), maps(4, seed=3)
    variance = np.log1p(np.exp(array(log_scale)))[:, None, None] + 1e-5
    expected = (0.5 * ((array(mean) - array(target)) ** 2 / variance + np.log(variance))).mean()
    loss = vid_loss(mean, target, log_scale)
    assert loss.item() == pytest.approx(expected, rel=1e-12)

    v = (log_scale.exp() + 1).log() + 1e-5
    formula = ((mean - target.detach()).pow(2) / v[None, :, None, None] + v.log()[None, :, None, None]).mean() / 2
    got = torch.autograd.grad(loss, [mean, log_scale, target], allow_unused=True)
    assert_close(got[:2], torch.autograd.grad(formula, [mean, log_scale]), rtol=0, atol=1e-10)
    assert got[2] is None


def test_vid_by_hand():
    # Channel 1: softplus(ln(e - 1)) = 1, differences 1 and 3; channel 2: v = 2, differences 2 and 0 (eps negligible).
    # 1/2 mean(1/1 + ln 1, 9/1 + ln 1, 4/2 + ln 2, 0 + ln 2) = 1/8 (12 + 2 ln 2) = 1.673287.
    mean = torch.tensor([[[1.0, 3.0], [2.0, 0.0]]], dtype=torch.float64)
    log_scale = torch.tensor([math.log(math.e - 1), math.log(math.e**2 - 1)], dtype=torch.float64)
    loss = vid_loss(mean, torch.zeros_like(mean), log_scale, eps=1e-12)
    assert loss.item() == pytest.approx(1.673287, abs=1e-6)


def test_vid_of_vectors():
    mean, target, log_scale = maps(3, 4, seed=1), maps(3, 4, seed=2), maps(4, seed=3)
    expected = vid_loss(mean[:, :, None, None], target[:, :, None, None], log_scale)
    assert vid_loss(mean, target, log_scale).item() == pytest.approx(expected.item(), rel=1e-14)


def test_bad_arguments():
    a = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match='1 of the student, 2 of the teacher'):
        attention_loss([a], [a, a])
    with pytest.raises(ValueError, match='pairs of maps, got 0'):
        attention_loss([], [])
    with pytest.raises(ValueError, match=r'\(B, C, H, W\) of one batch, got \(2, 3, 4\) and \(2, 3, 4, 4\)'):
        attention_loss([a[..., 0]], [a])
    with pytest.raises(ValueError, match='of one batch'):
        match_size(a, a[:1])
    for p in (0.5, float('nan')):
        with pytest.raises(ValueError, match=f'p: expected .* got {p}'):
            attention_loss([a], [a], p=p)
    with pytest.raises(ValueError, match=r'got \(2, 3, 4, 4\), expected \(2, 3, 2, 2\)'):
        vid_loss(a, a[..., :2, :2], torch.zeros(3))
    with pytest.raises(ValueError, match=r'log_scale: .* got \(4,\)'):
        vid_loss(a, a, torch.zeros(4))
    with pytest.raises(ValueError, match='log_scale: expected one value per channel'):
        vid_loss(a[0, 0, 0], a[0, 0, 0], torch.zeros(()))
    with pytest.raises(ValueError, match='eps: expected'):
        vid_loss(a, a, torch.zeros(3), eps=0)
