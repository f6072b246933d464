"""The learning rate by the epoch and by the update, beside its closed form."""

import math

import pytest
import torch

from dkszoo.engine import TrainConfig
from dkszoo.engine.optim import build_scheduler, set_rates

EPOCHS, STEPS, GATHERED = 3, 7, 2  # four updates an epoch, the last of a single step


def rates(gathered: int = GATHERED, **settings) -> list[float]:
    config = TrainConfig(epochs=EPOCHS, lr=0.2, grad_accum_steps=gathered, **settings)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    scheduler = build_scheduler(config, optimizer, STEPS)
    found = []
    for epoch in range(EPOCHS):
        for step in range(0, STEPS, gathered):
            set_rates(scheduler, config, STEPS, epoch, step)
            found.append(optimizer.param_groups[0]['lr'])
    return found


def cosine(done: float) -> float:
    return 0.1 * (1 + math.cos(math.pi * done))


def test_by_the_epoch():
    assert rates() == pytest.approx([cosine(epoch / 3) for epoch in (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)])


def test_by_the_update():
    for gathered, updates in ((GATHERED, 12), (1, 21)):
        found = rates(gathered, sched_on_updates=True)
        assert found == pytest.approx([cosine(update / updates) for update in range(updates)])


def test_drops_and_warm_up_stay_where_their_epochs_are():
    for on_updates in (False, True):
        for milestones in ((2, 3), (3, 2)):
            drops = rates(sched_on_updates=on_updates, sched='multistep', decay_milestones=milestones)
            assert drops == pytest.approx([0.2] * 4 + [0.02] * 4 + [0.002] * 4)
    warm = rates(sched_on_updates=True, warmup_epochs=1, warmup_lr=0.0)
    assert warm == pytest.approx([0.0, 0.05, 0.1, 0.15, *(cosine(update / 12) for update in range(4, 12))])
    assert rates(warmup_epochs=2, warmup_lr=0.1)[:8] == pytest.approx([0.1] * 4 + [0.15] * 4)


def test_a_constant_rate():
    assert rates(sched_on_updates=True, sched='none') == [0.2] * 12


def test_a_drop_every_so_many_epochs():
    for on_updates in (False, True):
        found = rates(sched='step', decay_epochs=2, decay_rate=0.5, sched_on_updates=on_updates)
        assert found == pytest.approx([0.2] * 8 + [0.1] * 4)


def test_the_lowest_rate():
    expected = [0.1 + 0.05 * (1 + math.cos(math.pi * epoch / 3)) for epoch in range(3) for _ in range(4)]
    assert rates(min_lr=0.1) == pytest.approx(expected)
