"""The branches' own learning rate: factor, warm-up, and timm's schedules and layer decay together with it."""

import dataclasses

import pytest
import timm
import torch

from dkszoo import DeepSupervisionTask
from dkszoo.branches import attach_branches
from dkszoo.engine import TrainConfig
from dkszoo.engine.optim import build_optimizer, build_scheduler


def make(**settings):
    config = TrainConfig(**{**dict(lr=0.1, epochs=10, sched='cosine', opt='sgd'), **settings})
    task = DeepSupervisionTask(attach_branches(timm.create_model('cifar_resnet8', num_classes=5)), 'ds')
    trainable = task.get_trainable_module()
    optimizer = build_optimizer(config, trainable)
    return config, trainable, optimizer, build_scheduler(config, optimizer, steps=7)


def rates(trainable, optimizer):
    """The learning rate of every parameter, by name."""
    found = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    return {name: found[id(p)] for name, p in trainable.named_parameters()}


@pytest.mark.parametrize('layer_decay', [None, 0.5])
@pytest.mark.parametrize('sched', ['cosine', 'multistep', 'none'])
def test_factor_and_warm_up(layer_decay, sched):
    common = dict(layer_decay=layer_decay, sched=sched, warmup_epochs=2 if sched == 'cosine' else 0)
    _, trainable, optimizer, scheduler = make(**common, branch_lr_scale=4.0, branch_warmup_epochs=3)
    _, plain, plain_optimizer, plain_scheduler = make(**common)
    for epoch in range(8):
        scheduler.step(epoch)
        if plain_scheduler is not None:
            plain_scheduler.step(epoch)
        factor = 4.0 * min(1.0, (epoch + 1) / 4)
        expected = rates(plain, plain_optimizer)
        for name, rate in rates(trainable, optimizer).items():
            own = 1.0 if name.startswith('net.backbone.') else factor
            assert rate == pytest.approx(own * expected[name]), (epoch, name)


def test_nothing_changes_without_it():
    _, _, optimizer, scheduler = make()
    assert not any('branch' in group for group in optimizer.param_groups)
    assert type(scheduler).__module__.startswith('timm.')


def test_weight_decay_groups_stay():
    _, trainable, optimizer, _ = make(branch_lr_scale=2.0, weight_decay=0.1, filter_bias_and_bn=True)
    decays = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert len(decays) == sum(1 for _ in trainable.parameters())
    assert all((decays[id(p)] == 0) == (p.ndim == 1) for p in trainable.parameters())


def test_what_a_model_leaves_out_of_weight_decay_stays_out():
    net = attach_branches(timm.create_model('test_vit', num_classes=5), 'linear')
    trainable = DeepSupervisionTask(net, 'ds').get_trainable_module()
    groups = build_optimizer(TrainConfig(branch_lr_scale=2.0, weight_decay=0.1), trainable).param_groups
    decays = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    assert {decays[id(p)] for p in (net.backbone.pos_embed, net.backbone.cls_token)} == {0.0}


def test_it_resumes():
    settings = dict(branch_lr_scale=4.0, branch_warmup_epochs=3)
    _, trainable, optimizer, scheduler = make(**settings)
    scheduler.step(1)
    saved = optimizer.state_dict(), scheduler.state_dict()
    scheduler.step(2)
    expected = rates(trainable, optimizer)
    _, trainable, optimizer, scheduler = make(**settings)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    scheduler.step(2)
    assert rates(trainable, optimizer) == expected


@pytest.mark.parametrize('setting', [{'branch_lr_scale': 0.0}, {'branch_lr_scale': -1.0}, {'branch_warmup_epochs': -1}])
def test_bad_values(setting):
    with pytest.raises(ValueError, match='--branch-'):
        dataclasses.replace(TrainConfig(), **setting)


def test_an_update_obeys_it():
    """With one step of plain SGD, the branches move four times as far for the same gradient."""
    _, trainable, optimizer, scheduler = make(branch_lr_scale=4.0, opt='momentum', momentum=0.0, weight_decay=0.0)
    scheduler.step(0)
    before = {name: p.detach().clone() for name, p in trainable.named_parameters()}
    for p in trainable.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in trainable.named_parameters():
        moved = 0.1 if name.startswith('net.backbone.') else 0.4
        torch.testing.assert_close(before[name] - p.detach(), torch.full_like(p, moved))
