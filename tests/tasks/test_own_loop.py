"""The task in loops of one's own: wrapped, compiled, averaged, and what cannot work is said."""

import pytest
import timm
import torch
from task_zoo import STUDENT, make_task, make_teacher, network
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.checkpoint import checkpoint

import dkszoo


def vit_task() -> dkszoo.DeepSupervisionTask:
    torch.manual_seed(0)
    backbone = timm.create_model('test_vit', num_classes=10, in_chans=1, img_size=32)
    return dkszoo.DeepSupervisionTask(dkszoo.attach_branches(backbone, 'linear'), 'ds', verbose=False)


def groups(task, **settings) -> list[tuple]:
    optimizer = create_optimizer_v2(task, 'adamw', lr=0.1, weight_decay=0.05, **settings)
    sizes = [
        (g['weight_decay'], g.get('lr_scale', 1.0), sum(p.numel() for p in g['params'])) for g in optimizer.param_groups
    ]
    return sorted(size for size in sizes if size[-1])


@pytest.mark.parametrize('settings', [{}, {'layer_decay': 0.5}])
def test_wrapping_changes_no_group_of_the_optimizer(settings):
    plain, wrapped = vit_task(), vit_task()
    wrapped.compile(backend='eager')
    assert any('_orig_mod' in name for name, _ in wrapped.named_parameters())
    assert groups(wrapped, **settings) == groups(plain, **settings)
    assert len(wrapped.no_weight_decay()) == len(plain.no_weight_decay()) > 0


def test_the_average_takes_no_gradients():
    task = make_task('vid')
    trained = sum(p.requires_grad for p in task.parameters())
    task.setup_ema(decay=0.5)
    assert sum(p.requires_grad for p in task.parameters()) == trained
    assert groups(task, layer_decay=0.5) == groups(make_task('vid'), layer_decay=0.5)
    before = next(task.get_net(ema=True).parameters()).clone()
    next(task.get_net().parameters()).data += 1
    task.update_ema()
    assert not torch.equal(next(task.get_net(ema=True).parameters()), before)


def test_a_teacher_does_not_lose_its_values():
    teacher = make_teacher()
    with pytest.raises(ValueError, match='no values yet'):
        dkszoo.DeepSupervisionTask(network('mirror').to('meta'), 'dskd', teacher=teacher)
    assert not next(teacher.parameters()).is_meta


@pytest.mark.parametrize(
    'wrap', [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel, dkszoo.DeepSupervisionTask]
)
def test_strip_finds_what_is_wrapped(wrap):
    net = network('dks')
    wrapped = wrap(net)
    stripped = dkszoo.strip(wrapped)
    assert type(stripped) is type(net.backbone)
    assert not any(isinstance(part, dkszoo.DeeplySupervised) for part in stripped.modules())


@pytest.mark.parametrize('wrap', [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel])
def test_strip_finds_the_network_of_a_wrapped_task(wrap):
    stripped = dkszoo.strip(wrap(dkszoo.DeepSupervisionTask(network('dks'))))
    assert type(stripped) is type(network('dks').backbone)


def test_strip_does_not_pass_on_hidden_branches():
    with pytest.raises(ValueError, match='Sequential has a network with branches inside'):
        dkszoo.strip(nn.Sequential(network('dks')))


@pytest.mark.parametrize('wrap', [nn.DataParallel, torch.compile])
def test_the_task_is_wrapped_and_not_the_network(wrap):
    with pytest.raises(ValueError, match='wrap the task instead'):
        dkszoo.DeepSupervisionTask(wrap(network('dks')), 'dks')


@pytest.mark.parametrize('method', ['baseline', 'kd'])
def test_networks_that_are_not_timms(method):
    with pytest.raises(ValueError, match='Sequential is not a timm classifier'):
        dkszoo.DeepSupervisionTask(
            nn.Sequential(nn.Flatten(), nn.Linear(9, 10)),
            method,
            teacher=None if method == 'baseline' else make_teacher(),
        )


def test_teachers_of_other_channels_are_refused():
    teacher = timm.create_model('cifar_resnet8', num_classes=10)
    with pytest.raises(ValueError, match='images of 3 channels, the network of 1'):
        dkszoo.DeepSupervisionTask(network('dks'), 'kd', teacher=teacher)


def test_the_criterion_is_a_part_once():
    criterion = nn.CrossEntropyLoss(weight=torch.rand(10))
    task = make_task('ds', criterion=criterion)
    assert [key for key in task.state_dict() if 'criterion' in key] == ['trainable_module.criterion.weight']
    assert list(task.get_task_state()) == ['branches', 'terms']
    task.trainable_module.criterion = nn.Identity()  # whatever is there is what the terms take
    with pytest.raises(TypeError):
        task(torch.randn(2, 1, 32, 32), torch.arange(2))
    for wrong in ('cross_entropy', nn.CrossEntropyLoss, network(None)):  # the last is a teacher in the wrong place
        with pytest.raises(ValueError, match='criterion must be a loss'):
            make_task('ds', criterion=wrong)


def test_a_name_is_no_network():
    with pytest.raises(ValueError, match='str is not a timm classifier'):
        dkszoo.DeepSupervisionTask('cifar_resnet8')


def test_activation_checkpointing():
    images, labels = torch.randn(4, 1, 32, 32), torch.arange(4)
    plain, saving = make_task('dks'), make_task('dks')
    plain(images, labels)['loss'].backward()
    checkpoint(lambda *batch: saving(*batch)['loss'], images, labels, use_reentrant=False).backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_branches_that_nobody_reads_change_no_loss():
    task = dkszoo.DeepSupervisionTask(network('dks'), 'baseline')
    with torch.no_grad():
        for head in task.get_net().classifiers()[1:]:
            head.bias[0] = -torch.inf
    result = task(torch.randn(2, 1, 32, 32), torch.arange(2))
    assert result['loss'] == result['ce']
    result['loss'].backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.get_net().branches.parameters())


@pytest.mark.parametrize('mode', [True, False])
def test_new_branches_are_in_the_mode_of_the_network(mode):
    net = dkszoo.attach_branches(dkszoo.create_model('cifar_resnet8', num_classes=10).train(mode))
    assert [net.training, *(branch.training for branch in net.branches)] == [mode] * 3


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(1.5))

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target) ** self.power


def test_a_criterion_that_learns_is_saved():
    task, other = make_task('ds', criterion=Learned()), make_task('ds', criterion=Learned())
    task(torch.randn(4, 1, 32, 32), torch.arange(4))['loss'].backward()
    assert task.trainable_module.criterion.power.grad is not None
    task.trainable_module.criterion.power.data.fill_(2.0)
    other.load_task_state(task.get_task_state())
    assert other.trainable_module.criterion.power.item() == 2.0


@pytest.mark.parametrize('place', ['', 'task.', 'lit.task.'])
@pytest.mark.parametrize('compiled', [False, True])
def test_state_dicts_of_tasks_are_read(place, compiled):
    task = make_task('vid')
    if compiled:
        task.compile(backend='eager')
    state = {f'{place}{key}': value for key, value in task.state_dict().items()}
    converted = dkszoo.convert({'state_dict': state, 'epoch': 3}, STUDENT)
    backbone = task.get_net().backbone.state_dict()
    assert converted.backbone.keys() == backbone.keys()
    assert all(torch.equal(value, backbone[key]) for key, value in converted.backbone.items())


def test_costs_of_a_network_take_no_arguments():
    with pytest.raises(TypeError, match='num_clases only with the name of a model'):
        dkszoo.cost(network('dks'), num_clases=7)
