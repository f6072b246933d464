"""The benchmarks: what they take from the package is there, and what they compare is the same work."""

import copy
import importlib
import itertools
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from benchmarks import cost, step, synergy
from dkszoo.losses import synergy_loss

ROOT = Path(__file__).parent.parent
MODULES = ['.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in sorted(ROOT.glob('benchmarks/**/*.py'))]


@pytest.mark.parametrize('name', MODULES)
def test_imports(name):
    importlib.import_module(name)


def test_the_usual_forms_of_the_synergy_loss_are_the_same_loss():
    torch.manual_seed(0)
    logits = [torch.randn(4, synergy.CLASSES, requires_grad=True) for _ in range(3)]
    values = [loss(logits) for loss in (synergy_loss, synergy.pairwise, synergy.official)]
    slopes = [torch.autograd.grad(value, logits[0])[0] for value in values]
    for value, slope in zip(values[1:], slopes[1:], strict=True):
        assert_close(value, values[0], rtol=1e-3, atol=0)
        assert_close(slope, slopes[0], rtol=1e-2, atol=1e-6)


def test_the_usual_step_does_what_ours_does(monkeypatch):
    """Ours has Nesterov's momentum, which moves 1.9 times as far in the first step."""
    for name, value in {'MODEL': 'cifar_resnet8', 'BATCH': 4, 'CLASSES': 5}.items():
        monkeypatch.setattr(step, name, value)
    images, targets = torch.randn(4, 3, 32, 32), torch.arange(4)
    setup, ours = step.our_step(images, targets, method='dks')
    net = setup.task.get_net()
    before, twin = copy.deepcopy(net), copy.deepcopy(net)
    monkeypatch.setattr(step.dkszoo, 'create_model', lambda *_, **__: twin)
    step.usual_step(images, targets)()
    ours()
    for start, one, other in zip(before.parameters(), net.parameters(), twin.parameters(), strict=True):
        assert_close(one - start, 1.9 * (other - start), rtol=1e-3, atol=1e-5)


def test_the_ratio_of_times_is_that_with_branches_to_that_without():
    clock = itertools.chain([0, 0], itertools.cycle([0, 3, 4])).__next__
    assert cost.measure('cifar_resnet8', 'linear', 32, 2, 2, clock) == 3
