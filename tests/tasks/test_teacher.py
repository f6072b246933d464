"""The teacher: frozen in every respect, its own normalisation and type, refused where it does not fit."""

import copy

import numpy as np
import pytest
import timm
import torch
from task_zoo import SETTINGS, digits, make_task, make_teacher, network, train
from torch import nn
from torch.testing import assert_close

import dkszoo
from dkszoo.tasks import METHODS, Teacher, TeacherOutput
from dkszoo.tasks.pairing import pair_stages, stage_indices

TAUGHT = [method for method in SETTINGS if METHODS[method].uses_teacher]


@pytest.mark.parametrize('method', TAUGHT)
def test_it_stays_as_it_is_bit_for_bit(method):
    model = make_teacher()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    task = dkszoo.DeepSupervisionTask(network(SETTINGS[method][0]), method, teacher=model)
    task.setup_ema(decay=0.5)
    task.train()
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.001)
    train(task, 2, optimizer)
    task.update_ema(step=1)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())

    ours = {id(p) for p in model.parameters()}
    assert not any(id(p) in ours for p in task.parameters())
    sizes = [sum(t.numel() for t in module.state_dict().values()) for module in (task.get_trainable_module(), model)]
    ema = task.get_trainable_module(ema=True)
    assert sum(t.numel() for t in ema.module.state_dict().values()) == sizes[0]
    assert sum(t.numel() for t in task.state_dict().values()) == 2 * sizes[0]


def test_train_mode_is_refused_quietly():
    teacher = Teacher(make_teacher())
    assert not teacher.train().training
    assert not any(module.training for module in teacher.modules())


def test_it_answers_in_evaluation_mode_whatever_others_did():
    model = make_teacher()
    task = dkszoo.DeepSupervisionTask(network(None), 'kd', teacher=model)
    expected = task(*digits())['kd']
    before = copy.deepcopy(model.state_dict())
    model.train()
    assert torch.equal(task(*digits())['kd'], expected)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_it_follows_the_task_but_keeps_its_type():
    task = make_task('kd')
    task.double()
    assert next(task.teacher.parameters()).dtype == torch.float32
    images, labels = digits()
    task(images.double(), labels)['loss'].backward()
    meta = make_task('kd').to('meta')
    assert next(meta.teacher.parameters()).device.type == 'meta'


def test_it_sees_images_normalised_its_own_way():
    pixels = torch.rand(2, 1, 8, 8)
    seen = []

    class Net(nn.Module):
        pretrained_cfg = {'mean': (0.5,), 'std': (0.25,)}
        num_classes = 10

        def forward(self, x):
            seen.append(x)
            return x.new_zeros(len(x), 10)

    Teacher(Net(), input_mean=(0.3,), input_std=(0.2,))((pixels - 0.3) / 0.2)
    assert_close(seen[-1], (pixels - 0.5) / 0.25)
    same = (pixels - 0.5) / 0.25
    for teacher in (Teacher(Net()), Teacher(Net(), input_mean=(0.5,), input_std=(0.25,))):
        teacher(same)
        assert torch.equal(seen[-1], same)
    Teacher(Net(), mean=(0.1,), std=(1.0,), input_mean=(0.5,), input_std=(0.25,))(same)
    assert_close(seen[-1], pixels - 0.1)
    with pytest.raises(ValueError, match="have 1 and 1 values, the images' 3 and 3"):
        Teacher(Net(), input_mean=(0.1, 0.2, 0.3), input_std=(1.0, 1.0, 1.0))


def test_statistics_of_the_network_and_of_a_plain_teacher_are_its_pretrained_cfg():
    student = timm.create_model('cifar_resnet8', num_classes=5)
    other = timm.create_model('cifar_resnet8', num_classes=5, pretrained_cfg_overlay={'mean': (0.5, 0.5, 0.5)})
    for teacher, differs in ((copy.deepcopy(student), False), (other, True)):
        task = dkszoo.DeepSupervisionTask(student, 'kd', teacher=teacher)
        assert task.teacher.renormalises == differs


def test_what_nobody_asked_for_is_said(caplog):
    student = timm.create_model('cifar_resnet8', num_classes=5)
    other = timm.create_model('cifar_resnet8', num_classes=5, pretrained_cfg_overlay={'mean': (0.5, 0.5, 0.5)})
    described = Teacher(other, input_mean=(0.4,) * 3, input_std=(0.2,) * 3)
    caplog.set_level('INFO', 'dkszoo')
    for teacher, verbose, said in ((other, True, True), (other, False, False), (described, True, False)):
        caplog.clear()
        dkszoo.DeepSupervisionTask(student, 'kd', teacher=teacher, verbose=verbose)
        assert [record.levelname for record in caplog.records if 'normalised again' in record.message] == [
            'WARNING'
        ] * said


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, None])
def test_its_type_whatever_autocast_says(dtype):
    teacher = Teacher(make_teacher(), dtype=dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = teacher(digits()[0]).logits
    assert logits.dtype == (dtype or torch.bfloat16)
    exact = make_teacher()(digits()[0])
    assert_close(logits.float(), exact, rtol=0.05, atol=0.1)
    task = dkszoo.DeepSupervisionTask(network(None), 'kd', teacher=teacher)
    assert task(*digits())['kd'].dtype == torch.float32


def test_a_network_with_branches_teaches_with_its_backbone():
    net = network('dks')
    teacher = Teacher(net)
    assert teacher.model is net.backbone
    net.eval()
    assert_close(teacher(digits()[0]).logits, net(digits()[0]).logits)


def test_any_module_that_gives_logits_can_teach_predictions():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    task = dkszoo.DeepSupervisionTask(network(None), 'kd', teacher=model)
    assert task(*digits())['kd'] > 0
    assert isinstance(task.teacher(digits()[0]), TeacherOutput)
    for method in ('at', 'fitnet'):
        with pytest.raises(ValueError, match='Sequential does not expose its stages'):
            dkszoo.DeepSupervisionTask(network(None), method, teacher=model)
    with pytest.raises(ValueError, match="expected the teacher's final map"):
        dkszoo.DeepSupervisionTask(network('dks'), 'dskd', teacher=model)


class OddTeacher(nn.Module):
    """Has a map, in timm's words, but no num_features."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)

    def forward_features(self, x):
        return self.conv(x)

    def forward_head(self, x, pre_logits=False):
        return self.fc(x.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize('method', ['kd', 'dskd'])
def test_a_teacher_need_not_tell_its_channels(method):
    task = dkszoo.DeepSupervisionTask(network(SETTINGS[method][0]), method, teacher=OddTeacher())
    images, labels = digits()
    assert task.teacher(images).features.shape == (len(images), 6, 30, 30)
    assert task(images, labels)['loss'].isfinite()


def test_what_does_not_fit_is_refused():
    student = network(None)
    with pytest.raises(ValueError, match='the teacher has 100 classes, the network 10'):
        dkszoo.DeepSupervisionTask(student, 'kd', teacher=timm.create_model('cifar_resnet8', in_chans=1))
    with pytest.raises(ValueError, match='the teacher is the network itself'):
        dkszoo.DeepSupervisionTask(student, 'kd', teacher=student)
    with pytest.raises(ValueError, match='the teacher is the network itself'):
        dkszoo.DeepSupervisionTask(student, 'kd', teacher=Teacher(student))
    student = network(None)
    task = dkszoo.DeepSupervisionTask(student, 'kd', teacher=Teacher(make_teacher(), input_size=(64, 64)))
    with pytest.raises(ValueError, match='the teacher takes 64x64 images, got 32x32'):
        task(*digits())


def test_examples_have_the_size_the_teacher_takes():
    teacher = Teacher(make_teacher(), input_size=(64, 64))
    task = dkszoo.DeepSupervisionTask(network(None), 'fitnet', teacher=teacher)
    assert torch.isfinite(task(torch.randn(2, 1, 64, 64), torch.arange(2))['loss'])


# -- stages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'stages'),
    [
        ('cifar_resnet8', [0, 1, 2]),
        ('cifar_vgg8', [0, 1, 2, 3]),
        ('resnet18', [1, 2, 3, 4]),
        ('regnetx_002', [1, 2, 3, 4]),
        ('convnext_atto', [0, 1, 2, 3]),
        ('mobilenetv2_050', [0, 1, 2, 3, 4]),
    ],
)
def test_a_stem_is_no_stage(name, stages):
    with torch.device('meta'):
        assert stage_indices(timm.create_model(name)) == stages


def test_a_single_stage_is_no_stem():
    with torch.device('meta'):
        net = timm.create_model('resnet18')
    net.feature_info = net.feature_info[:1]
    assert stage_indices(net) == [0]


def test_stages_pair_from_the_first_on():
    with torch.device('meta'):
        three, four = timm.create_model('cifar_resnet8'), timm.create_model('resnet18')
    assert pair_stages(three, four) == ([0, 1, 2], [1, 2, 3])
    assert pair_stages(four, three) == ([1, 2, 3], [0, 1, 2])


@pytest.mark.parametrize(
    ('student', 'teacher'), [('cifar_vgg8', 'cifar_resnet8x4'), ('cifar_mobilenet_v2_half', 'cifar_wrn16_1')]
)
@pytest.mark.parametrize('method', ['fitnet', 'at', 'vid', 'dskd'])
def test_teacher_of_another_family(method, student, teacher):
    # The families of DSKD's two most unequal pairs: four stages against three.
    torch.manual_seed(0)
    net, teacher = (timm.create_model(name, num_classes=10, in_chans=1) for name in (student, teacher))
    net = net if SETTINGS[method][0] is None else dkszoo.attach_branches(net, SETTINGS[method][0])
    task = dkszoo.DeepSupervisionTask(net, method, teacher=teacher)
    images, labels = digits()
    result = task(images[:4], labels[:4])
    result['loss'].backward()
    assert all(torch.isfinite(p.grad).all() for p in task.get_trainable_module().parameters())


def test_it_stays_where_the_network_is():
    """Also where no device was named: conversions of the task move it to the device the task says."""
    net = network('dks').to('meta')
    task = dkszoo.DeepSupervisionTask(net, 'kd', teacher=make_teacher().to('meta'))
    assert task.device.type == 'meta'
    task.float()
    assert {p.device.type for p in task.teacher.parameters()} == {'meta'}


def test_a_teacher_that_gives_more_than_logits():
    class Both(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x.mean((2, 3))), x

    task = dkszoo.DeepSupervisionTask(network('dks'), 'kd', teacher=Both(1, 10))
    with pytest.raises(ValueError, match=r'the teacher returns a tuple, expected logits \[B, K\]'):
        task(*digits())


def test_a_graph_is_no_teacher():
    graph = torch.export.export(make_teacher().eval(), (digits()[0],)).module()
    with pytest.raises(ValueError, match=r'cannot be frozen: .* \(pass the network, not a graph of it\)'):
        Teacher(graph)


def test_statistics_as_arrays():
    mean, std = np.full(3, 0.5), np.full(3, 0.25)
    assert Teacher(make_teacher(), mean, std, input_mean=np.full(3, 0.4), input_std=(0.2,) * 3).renormalises
    assert not Teacher(make_teacher(), mean, std, mean, std).renormalises


@pytest.mark.parametrize('name', ['densenet121', 'inception_v3', 'inception_v4', 'hrnet_w18_small', 'resnet50'])
def test_the_first_stage_is_no_stem(name):
    with torch.device('meta'):
        assert stage_indices(timm.create_model(name)) == [1, 2, 3, 4]
