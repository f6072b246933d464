"""The task in a training loop: what it saves, copies, compiles, and tells its terms."""

import copy

import numpy as np
import pytest
import timm
import torch
from task_zoo import SETTINGS, digits, make_task, network, train
from timm.utils import unwrap_model
from torch.testing import assert_close

import dkszoo
from dkszoo.tasks.pairing import example_batch


def optimizer_of(task):
    return torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.001, momentum=0.9)


@pytest.mark.parametrize('method', SETTINGS)
def test_state_goes_round_and_is_checked(method):
    task = make_task(method)
    train(task, 2, optimizer_of(task))
    state = task.get_checkpoint_state()
    assert set(state['state_dict']) == set(network(None).state_dict())
    assert set(state['task_state']) == {'branches', 'terms'}

    fresh = make_task(method)
    fresh.load_checkpoint_state(copy.deepcopy(state['state_dict']), copy.deepcopy(state['task_state']))
    for t in (task, fresh):
        t.eval()
    assert fresh(*digits())['loss'] == task(*digits())['loss']

    for part, tensors in state['task_state'].items():
        if tensors:
            with pytest.raises(ValueError, match=f'has no {part} in its task_state'):
                fresh.load_task_state({key: value for key, value in state['task_state'].items() if key != part})
            fewer = {**state['task_state'], part: dict(list(tensors.items())[1:])}
            with pytest.raises(RuntimeError, match='Missing key'):
                fresh.load_task_state(fewer)
            fresh.load_task_state(fewer, strict=False)


def test_a_baseline_has_no_state_to_miss():
    make_task('baseline').load_task_state(None)


def test_projections_and_variances_are_trained_and_saved():
    expected = {'fitnet': 'regressor', 'vid': 'log_scale', 'byot': 'projections', 'dskd': 'projections'}
    for method, name in expected.items():
        task = make_task(method)
        before = copy.deepcopy(task.get_task_state()['terms'])
        train(task, 2, optimizer_of(task))
        after = task.get_task_state()['terms']
        keys = [key for key in after if name in key]
        assert keys
        assert any(not torch.equal(before[key], after[key]) for key in keys)


@pytest.mark.parametrize('method', ['dks', 'vid', 'dskd'])
def test_averaged_and_copied(method):
    task = make_task(method)
    task.setup_ema(decay=0.5)
    optimizer = optimizer_of(task)
    for step in range(2):
        train(task, 1, optimizer)
        task.update_ema(step=step + 1)
    state = task.get_checkpoint_state(ema=True)
    assert set(state) == {'state_dict_ema', 'task_state_ema'}
    assert set(state['task_state_ema']['terms']) == set(task.get_task_state()['terms'])
    assert not torch.equal(state['state_dict_ema']['conv1.weight'], task.get_eval_model().conv1.weight)
    learned = task.get_task_state()
    for part, averages in state['task_state_ema'].items():
        differ = [not torch.equal(average, learned[part][key]) for key, average in averages.items()]
        assert any(differ) or not differ

    twin = copy.deepcopy(task)
    for t in (task, twin):
        t.eval()
    assert twin(*digits())['loss'] == task(*digits())['loss']
    assert twin.get_net() is not task.get_net()


@pytest.mark.parametrize('method', ['dks', 'dskd'])
def test_compiles_as_one_graph(method):
    torch._dynamo.reset()
    eager = make_task(method, **({'alpha_schedule': 'linear'} if method == 'dks' else {}))
    task = copy.deepcopy(eager)
    task.compile(backend='aot_eager', fullgraph=True)
    compiled, plain = task(*digits()), eager(*digits())
    for key in plain:
        assert_close(compiled[key], plain[key], rtol=1e-4, atol=1e-4)
    for result in (compiled, plain):
        result['loss'].backward()
    grads = [[p.grad for p in unwrap_model(t.get_trainable_module()).parameters()] for t in (task, eager)]
    for got, expected in zip(*grads, strict=True):
        assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item() + 1e-6)
    assert set(task.get_checkpoint_state()['state_dict']) == set(network(None).state_dict())
    if method == 'dks':  # a schedule's next value needs no new graph
        task.set_progress(1, 2)
        with torch.compiler.set_stance('fail_on_recompile'):
            halved = task(*digits())['ds']
        assert_close(halved, 0.5 * plain['ds'], rtol=0.2, atol=0)  # running statistics aside, half


def test_schedules_hear_of_the_epoch_through_every_wrapper():
    task = make_task('ds', alpha_schedule='linear')
    task.eval()
    full = task(*digits())['ds']
    for epoch, factor in ((0, 1.0), (3, 0.25)):
        task.set_progress(epoch, 4)
        assert_close(task(*digits())['ds'], factor * full)


@pytest.mark.parametrize('method', ['byot', 'vid', 'dskd'])
def test_making_it_changes_nothing_in_the_network(method):
    net = network(SETTINGS[method][0], drop_rate=0.5)
    net = net.train() if SETTINGS[method][0] else dkszoo.DeeplySupervised(net.train())
    net.backbone.bn1.eval()  # a layer somebody keeps fixed
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    example = example_batch(net, None, ([0, 2], []))
    assert [tuple(m.shape) for m in example.stages] == [(1, 16, 32, 32), (1, 64, 8, 8)]
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    example_batch(net, None, ((), ()))
    assert torch.equal(torch.rand(1), expected)


def test_criterion_of_one_s_own():
    def count(logits, target):
        return (logits.argmax(1) != target).float().mean() + 0 * logits.sum()

    task = dkszoo.DeepSupervisionTask(network(None), 'baseline', count)
    assert 0 <= task(*digits())['loss'] <= 1


def test_weights_of_torch_and_numpy_are_numbers():
    def loss(**settings):
        return dkszoo.DeepSupervisionTask(network('dks'), 'dks', **settings)(*digits())['loss']

    expected = loss(alpha=[0.5, 1.0], beta=[[0, 1, 2], [1, 0, 3], [0.5, 1, 0]])
    rows = [[1, 1, 2], [1, 1, 3], [0.5, 1, 1]]  # the diagonal is not used
    assert torch.equal(loss(alpha=torch.tensor([0.5, 1.0]), beta=torch.tensor(rows)), expected)
    assert torch.equal(loss(alpha=np.array([0.5, 1.0]), beta=np.array(rows)), expected)
    assert torch.equal(loss(alpha=np.float32(0.5), beta=np.float32(2)), loss(alpha=0.5, beta=2.0))
    with pytest.raises(ValueError, match='beta must be a number or rows of numbers'):
        loss(beta=[[[1.0]]])


@pytest.mark.parametrize('method', ['baseline', 'ds'])
def test_a_criterion_gives_one_loss(method):
    task = dkszoo.DeepSupervisionTask(network('dks'), method, torch.nn.CrossEntropyLoss(reduction='none'))
    with pytest.raises(ValueError, match="reduction='mean'"):
        task(*digits())


@pytest.mark.parametrize('channels', [1, 4])
def test_teachers_of_other_channels_than_three(channels):
    """timm leaves the statistics of three channels in their description: they say nothing about these."""
    images = torch.randn(4, channels, 32, 32)
    kwargs = dict(num_classes=10, in_chans=channels)
    teacher = timm.create_model('resnet10t', **kwargs)
    task = dkszoo.DeepSupervisionTask(timm.create_model('cifar_resnet8', **kwargs), 'kd', teacher=teacher)
    assert not task.teacher.renormalises
    assert torch.isfinite(task(images, torch.arange(4))['loss'])


def test_examples_have_the_size_a_transformer_was_made_for():
    kwargs = dict(num_classes=10, img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3)
    student, teacher = (timm.create_model('vit_tiny_patch16_224', **kwargs) for _ in range(2))
    task = dkszoo.DeepSupervisionTask(student, 'at', teacher=teacher)
    assert torch.isfinite(task(torch.randn(2, 3, 32, 32), torch.arange(2))['loss'])


@pytest.mark.parametrize('method', ['at', 'fitnet'])
def test_a_teacher_of_one_size_that_stops_early_when_asked_for_maps(method):
    """Hiera's default is to stop at the deepest stage asked for; its `pretrained_cfg` says that its size is fixed."""
    sizes = dict(stages=(1, 1, 1, 1), embed_dim=8, num_heads=1, num_classes=10)
    teacher = timm.create_model('hiera_tiny_224', **sizes)
    task = dkszoo.DeepSupervisionTask(timm.create_model('cifar_resnet8', num_classes=10), method, teacher=teacher)
    assert torch.isfinite(task(torch.randn(2, 3, 224, 224), torch.arange(2))['loss'])


def test_a_teacher_of_another_size_than_its_description_says():
    """timm leaves the name's size there, whatever size a network is made for."""
    student = timm.create_model('cifar_resnet8', num_classes=10, pretrained_cfg_overlay={'input_size': (3, 224, 224)})
    sizes = dict(stages=(1, 1, 1, 1), embed_dim=8, num_heads=1, num_classes=10)
    teacher = timm.create_model('hiera_tiny_224', **sizes)
    teacher.pretrained_cfg = {**teacher.pretrained_cfg, 'input_size': (3, 256, 256)}
    task = dkszoo.DeepSupervisionTask(student, 'at', teacher=teacher)
    assert torch.isfinite(task(torch.randn(2, 3, 224, 224), torch.arange(2))['loss'])


def test_a_student_of_another_size_than_its_description_says():
    student = timm.create_model('cifar_resnet8', num_classes=10)
    student.pretrained_cfg = {**student.pretrained_cfg, 'input_size': (3, 224, 224), 'fixed_input_size': True}
    kwargs = dict(num_classes=10, img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3)
    task = dkszoo.DeepSupervisionTask(student, 'at', teacher=timm.create_model('vit_tiny_patch16_224', **kwargs))
    assert torch.isfinite(task(torch.randn(2, 3, 32, 32), torch.arange(2))['loss'])


def test_terms_that_are_idle_with_one_class(caplog):
    net = dkszoo.create_model('cifar_resnet8', num_classes=1, branches='dks')
    for method, said in (('dks', 'synergy will'), ('byot', 'self_kd will'), ('ds', '')):
        caplog.clear()
        dkszoo.DeepSupervisionTask(net, method, criterion=torch.nn.BCEWithLogitsLoss())
        assert [said in record.getMessage() for record in caplog.records] == ([True] if said else [])


def test_mistakes_in_progress_and_rows():
    task = dkszoo.DeepSupervisionTask(network('dks'), 'dks')
    for epoch, epochs in ((0, 0), (4, 4), (-1, 4)):
        with pytest.raises(ValueError, match='there is no epoch'):
            task.set_progress(epoch, epochs)
    with pytest.raises(ValueError, match='3 x 3 matrix'):
        dkszoo.DeepSupervisionTask(network('dks'), 'dks', beta=[1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ('dtype', 'kept'), [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_class_weights_keep_their_precision(dtype, kept):
    weight = torch.linspace(0.1, 1.0, 10)
    criterion = torch.nn.CrossEntropyLoss(weight=weight.clone())
    images, labels = digits()
    task = dkszoo.DeepSupervisionTask(network('dks').to(dtype), 'dks', criterion)
    result = task(images.to(dtype), labels)
    assert criterion.weight.dtype == kept
    assert torch.equal(criterion.weight, weight.to(kept))
    expected = torch.nn.functional.cross_entropy(result['output'].to(kept), labels, weight.to(kept))
    assert_close(result['ce'], expected.detach())


def test_a_network_in_double_precision():
    images, labels = digits()
    task = dkszoo.DeepSupervisionTask(network('bottleneck').double(), 'byot')
    assert {value.dtype for value in task(images.double(), labels).values()} == {torch.float64}


@pytest.mark.parametrize(('classes', 'said'), [(0, 'has 0 classes'), (1, 'always 0, give a criterion')])
def test_without_classes_there_is_nothing_to_learn(classes, said):
    net = timm.create_model('cifar_resnet8', num_classes=classes)
    with pytest.raises(ValueError, match=said):
        dkszoo.DeepSupervisionTask(net, 'baseline')
    if classes:
        task = dkszoo.DeepSupervisionTask(net, 'baseline', torch.nn.BCEWithLogitsLoss())
        assert task(torch.randn(2, 3, 32, 32), torch.ones(2, 1))['loss'] > 0


def test_branches_of_other_classes_are_refused():
    net = network('dks')
    net.backbone.reset_classifier(7)
    with pytest.raises(ValueError, match='branch 0 has 10 classes, the network 7'):
        dkszoo.DeepSupervisionTask(net, 'dks')


def test_the_head_of_a_branch_may_be_a_convolution():
    net = network('dks')
    net.branches[0].head.fc = torch.nn.Conv2d(64, 10, 1)
    dkszoo.DeepSupervisionTask(net, 'ds')


def test_compiled_twice():
    task = make_task('dks')
    for _ in range(2):
        task.compile(backend='eager')
    assert torch.isfinite(task(*digits())['loss'])
    assert not any(name.count('_orig_mod') > 1 for name in task.state_dict())


def test_branches_that_no_term_reads_have_a_gradient_of_zero(caplog):
    """DDP waits for every parameter."""
    task = dkszoo.DeepSupervisionTask(network('dks'), 'baseline')
    task(*digits())['loss'].backward()
    grads = [p.grad for p in task.get_net().branches.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)
    assert 'method baseline reads no branch' in caplog.text
