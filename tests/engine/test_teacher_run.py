"""Teachers and wrong labels through train.py: found, checked, recorded."""

import argparse
import csv
import json

import pytest
import timm
import torch
import yaml

import dkszoo
from dkszoo.data import open_dataset
from dkszoo.engine import TrainConfig
from dkszoo.engine.data import open_data
from dkszoo.engine.teacher import build_teacher, check_fit
from dkszoo.weights import sha256

SMALL = ('--model-kwargs', 'channels=[4,8,16]', 'stem_chs=4')
TINY = (
    *('train', '--config', 'quickstart', '--epochs', '1', '--batch-size', '256', '--device', 'cpu', '--workers', '0'),
    *('--train-num-samples', '400', *SMALL),
)
TEACHER = 'runs/teacher/last.pth.tar'


def history(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


@pytest.fixture
def teacher(run_cli, tmp_path):
    """A trained teacher: its checkpoint and its export."""
    code, _, err = run_cli(*TINY, '--method', 'baseline', '--experiment', 'teacher', '--export', 'teacher.safetensors')
    assert code == 0, err
    return tmp_path / TEACHER


def test_dskd_with_a_teacher_trained_here(run_cli, tmp_path, teacher):
    before = sha256(teacher)
    argv = (*TINY, '--method', 'dskd', '--kd-checkpoint', TEACHER, '--experiment', 'student', '--amp')
    code, _, err = run_cli(*argv, '--amp-dtype', 'bfloat16', '--kd-dtype', 'bfloat16')
    assert code == 0, err
    (row,) = history(tmp_path / 'runs/student')
    assert {'train_ce', 'train_kd', 'train_feature'} <= row.keys()
    total = sum(float(row[f'train_{term}']) for term in ('ce', 'kd', 'feature'))
    assert total == pytest.approx(float(row['train_loss']), rel=1e-5)
    assert sha256(teacher) == before

    record = json.loads((tmp_path / 'runs/student/run.json').read_text())
    assert record['kd_checkpoint_sha256'] == before
    saved = torch.load(tmp_path / 'runs/student/last.pth.tar', weights_only=True)
    assert set(saved['task_state']) == {'branches', 'terms'}
    assert set(saved['state_dict']) == set(torch.load(teacher, weights_only=True)['state_dict'])
    assert not any('teacher' in key for key in saved['task_state']['terms'])


def test_a_finished_run_says_that_its_teacher_was_another(run_cli, teacher):
    argv = (*TINY, '--method', 'kd', '--kd-checkpoint', TEACHER, '--experiment', 'student')
    assert run_cli(*argv)[0] == 0
    code, out, err = run_cli(*argv)
    assert (code, 'finished already' in out, 'another' in err) == (0, True, False)
    before, contents = sha256(teacher), torch.load(teacher, weights_only=True)
    contents['state_dict']['fc.bias'] += 1
    torch.save(contents, teacher)
    code, out, err = run_cli(*argv)
    line = f'had another teacher checkpoint: {before}, here {sha256(teacher)}'
    assert (code, 'finished already' in out, line in err) == (0, True, True)
    for path in ('nowhere', '/proc/self/mem'):  # it is no longer needed, nor need it be readable
        teacher.unlink()
        teacher.symlink_to(path)
        code, out, err = run_cli(*argv)
        assert (code, 'finished already' in out, 'another' in err) == (0, True, False)


@pytest.mark.parametrize('source', ['last.pth.tar', 'teacher.safetensors', 'timm.pth.tar', 'bare.pth'])
def test_every_kind_of_file_teaches_the_same(tmp_path, request, source):
    if source in ('bare.pth', 'timm.pth.tar'):
        state = timm.create_model('cifar_resnet8', num_classes=10, in_chans=1).state_dict()
        args = argparse.Namespace(mean=[0.4], std=[0.2], input_size=[1, 32, 32])
        contents = {'state_dict': state, 'arch': 'cifar_resnet8', 'args': args}
        torch.save(state if source == 'bare.pth' else contents, tmp_path / source)
        path = tmp_path / source
    else:
        trained = request.getfixturevalue('teacher')
        state = torch.load(trained, weights_only=True)['state_dict']
        path = trained if source == 'last.pth.tar' else tmp_path / source
    config, _ = open_data(TrainConfig(method='kd', kd_checkpoint=str(path), device='cpu'))
    found = build_teacher(config)
    assert all(torch.equal(found.model.state_dict()[key], value) for key, value in state.items())
    assert found.renormalises == (source == 'timm.pth.tar')
    assert found.input_size == (32, 32)


def test_weights_that_name_no_statistics_are_of_the_data(tmp_path):
    """Not of CIFAR-100's, which the name of a network without weights comes with."""
    torch.save(timm.create_model('cifar_resnet8', num_classes=10).state_dict(), tmp_path / 'bare.pth')
    path, plain = str(tmp_path / 'bare.pth'), open_data(TrainConfig(in_chans=3))[0]
    config, _ = open_data(TrainConfig(method='kd', kd_checkpoint=path, device='cpu', in_chans=3))
    assert not build_teacher(config).renormalises
    config, _ = open_data(TrainConfig(initial_checkpoint=path, in_chans=3))
    assert (config.mean, config.std) == (plain.mean, plain.std)
    torch.save(timm.create_model('resnet18', num_classes=10).state_dict(), tmp_path / 'bare.pth')
    config, _ = open_data(TrainConfig(model='resnet18', initial_checkpoint=path, in_chans=3))
    assert config.mean == (0.485, 0.456, 0.406)  # the name's own weights are


def test_weights_for_other_channels_name_the_flag(teacher):
    with pytest.raises(ValueError, match=r'takes 1 channels, the images have 3 \(train with --in-chans 1\)'):
        open_data(TrainConfig(initial_checkpoint=TEACHER, in_chans=3))


def test_its_images_are_normalised_as_the_file_says(tmp_path, teacher):
    values = dict(method='kd', kd_checkpoint=TEACHER, device='cpu', mean=(0.5,), std=(0.5,))
    config, _ = open_data(TrainConfig(**values))
    found = build_teacher(config)
    card = dkszoo.weights.read_card(tmp_path / 'teacher.safetensors')['data']
    pixel = torch.full((1, 1, 1, 1), 0.25)
    own = ((pixel - 0.5) / 0.5) * found.scale + found.shift
    torch.testing.assert_close(own, (pixel - card['mean'][0]) / card['std'][0])


@pytest.mark.parametrize(
    ('argv', 'says'),
    [
        (('--method', 'kd'), "method 'kd' needs a teacher (give --kd-model-name"),
        (('--method', 'dks', '--kd-model-name', 'resnet18'), 'no use for a teacher (try --method dks+kd)'),
        (('--method', 'kd', '--kd-model-name', 'resnet18'), 'has 1000 classes, the data 10 (give --kd-checkpoint'),
        (('--method', 'kd', '--kd-model-name', 'resnt18'), "unknown model 'resnt18'"),
        (
            ('--method', 'kd', '--kd-model-name', 'cifar_resnet20'),
            "learned other classes: only there 'T-shirt/top'",
        ),
        (('--method', 'kd', '--kd-model-name', 'cifar_resnet8', '--num-classes', '100'), 'takes 3 channels'),
        (('--method', 'kd', '--kd-checkpoint', 'no.pth'), 'no.pth'),
        (('--method', 'kd', '--kd-checkpoint', 'x.pth', '--kd-dtype', 'int8'), '--kd-dtype'),
        (('--label-noise', '1.5'), '--label-noise must be at least 0 and at most 1, got 1.5'),
        (('--alpha-schedule', 'zero'), "--alpha-schedule 'zero' is unknown (choose fixed or linear or zeroing)"),
        (('--method', 'kd', '--kd-temperature', '0'), '--kd-temperature must be above 0'),
    ],
)
def test_mistakes(run_cli, tmp_path, argv, says):
    code, _, err = run_cli(*TINY, *argv)
    assert code == 2
    assert err.splitlines()[-1].startswith('dkszoo: error: ')
    assert says in err.splitlines()[-1]
    assert not (tmp_path / 'runs').exists()


def test_a_teacher_that_takes_no_such_images_is_refused(run_cli, tmp_path):
    vit = timm.create_model('vit_tiny_patch16_224', num_classes=10, in_chans=1)
    torch.save(vit.state_dict(), tmp_path / 'vit.pth')  # says nothing of a size
    argv = ('--kd-model-name', 'vit_tiny_patch16_224', '--kd-checkpoint', 'vit.pth')
    code, _, err = run_cli(*TINY, '--method', 'kd', *argv)
    assert code == 2
    assert "'teacher vit_tiny_patch16_224' does not take 32x32 images" in err.splitlines()[-1]
    assert 'train with --img-size N, or give --kd-checkpoint FILE of a teacher' in err.splitlines()[-1]


def test_a_teacher_of_another_size_is_refused(run_cli, teacher):
    argv = (*TINY, '--method', 'kd', '--kd-checkpoint', TEACHER, '--img-size', '40')
    code, _, err = run_cli(*argv)
    assert code == 2
    assert 'takes images of 32 px, training is at 40 px (train with --img-size 32' in err.splitlines()[-1]


def test_a_teacher_of_larger_images_is_refused_too():
    config = TrainConfig(num_classes=10, in_chans=1, img_size=32)
    with pytest.raises(ValueError, match='takes images of 48 px, training is at 32 px'):
        check_fit(config, 't.pth', 10, (1, 48, 48))


def test_wrong_labels_are_written_down_and_only_trained_on(run_cli, tmp_path):
    argv = (*TINY, '--method', 'baseline', '--label-noise', '0.5', '--noise-seed', '3', '--experiment', 'noisy')
    code, _, err = run_cli(*argv)
    assert code == 0, err
    folder = tmp_path / 'runs/noisy'
    with open(folder / 'label_noise.csv', newline='') as file:
        rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
    record = json.loads((folder / 'run.json').read_text())
    assert len(rows) == record['wrong_labels'] == record['train_images'] // 2
    labels = open_dataset('digits', None, 'train').targets
    assert all(labels[row['index']] == row['old'] != row['new'] for row in rows)
    settings = yaml.safe_load((folder / 'args.yaml').read_text())
    assert (settings['label_noise'], settings['noise_seed']) == (0.5, 3)

    # evaluation sees the labels as they are, and another process draws the same ones
    values = dict(label_noise=0.5, noise_seed=3, train_num_samples=400, method='baseline')
    _, data = open_data(TrainConfig(**values))
    assert [flip._asdict() for flip in data.flips] == rows
    for view in (data.val, data.test):
        assert view.targets is None
    kept = {int(i) for i in data.train.indices}
    assert {row['index'] for row in rows} <= kept
    assert not kept & {int(i) for i in data.val.indices}


def test_the_same_classes_in_another_order_are_others(monkeypatch):
    model = timm.create_model('cifar_resnet8', num_classes=10)
    config, _ = open_data(TrainConfig(method='kd', kd_checkpoint='t.pth', in_chans=3))
    names = list('abcdefghij')
    monkeypatch.setattr('dkszoo.engine.teacher.from_checkpoint', lambda _: (model, {'label_names': tuple(names)}))
    assert build_teacher(config, names)
    with pytest.raises(ValueError, match='learned other classes: another order'):
        build_teacher(config, names[::-1])


def test_statistics_of_colour_are_not_those_of_a_teacher_of_gray(tmp_path):
    torch.save(timm.create_model('resnet18', num_classes=10, in_chans=1).state_dict(), tmp_path / 'gray.pth')
    path = str(tmp_path / 'gray.pth')
    config, _ = open_data(TrainConfig(method='kd', kd_checkpoint=path, kd_model_name='resnet18', device='cpu'))
    assert not build_teacher(config).renormalises
