"""What a command is given reaches what does the work, under its own name."""

from pathlib import Path

import pytest
import torch

from dkszoo import engine
from dkszoo.cli import compare, replay, reproduce
from dkszoo.engine import TrainConfig


def test_compare(run_cli, monkeypatch):
    seen = []
    monkeypatch.setattr(compare, 'run_and_report', lambda *args: seen.append(args) or 0)
    grid = ('--methods', 'baseline,ds', '--seeds', '2', '--jobs', '3', '--output', 'out')
    code, _, err = run_cli('compare', '--config', 'quickstart', '--device', 'cpu', *grid)
    assert code == 0, err
    ((cells, folder, jobs),) = seen
    assert (folder, jobs) == (Path('out/compare-quickstart'), 3)
    made = [(method, cell.settings['seed']) for method, group in cells.items() for cell in group]
    assert made == [('baseline', 0), ('baseline', 1), ('ds', 0), ('ds', 1)]
    assert {cell.settings['device'] for group in cells.values() for cell in group} == {'cpu'}


def test_a_comparison_of_the_model_of_a_folder_stays_below_its_output(run_cli, monkeypatch):
    seen = []
    monkeypatch.setattr(compare, 'run_and_report', lambda *args: seen.append(args) or 0)
    assert run_cli('compare', '--model', 'local-dir:../hub')[0] == 0
    assert [folder for _, folder, _ in seen] == [Path('runs/compare-local-dir:.._hub')]


def test_reproduce(run_cli, monkeypatch):
    seen, written = [], []
    monkeypatch.setattr(reproduce, 'run_grid', lambda *args: seen.append(args[:3]))
    for name in ('finish', 'draw_groups'):
        monkeypatch.setattr(reproduce, name, lambda *args: written.append(args[-1]) or 0)
    monkeypatch.setattr(reproduce, 'report', lambda *_: '')
    grid = ('--seeds', '2', '--jobs', '3', '--output', 'out', '--no-equal-time')
    data = ('--dataset', 'cifar10', '--data-dir', 'D', '--device', 'cpu', '--workers', '0')
    code, _, err = run_cli('reproduce', 'dks-table1', '--row', 'resnet32-dks', *grid, *data)
    assert code == 0, err
    ((cells, folder, jobs),) = seen
    assert (folder, jobs) == (Path('out/reproduce-small'), 3)
    assert written == [folder / 'dks-table1.md', folder / 'dks-table1.png']
    assert sorted(cell.settings['seed'] for cell in cells) == [0, 0, 1, 1]
    asked = {'dataset': 'torch/cifar10', 'data_dir': 'D', 'device': 'cpu', 'workers': 0}
    assert all({key: cell.settings[key] for key in asked} == asked for cell in cells)


def test_replay(run_cli, monkeypatch):
    record, seen = {'settings': TrainConfig().to_dict(), 'threads': torch.get_num_threads()}, []
    monkeypatch.setattr(replay, 'read_finished', lambda _: record)
    monkeypatch.setattr(replay, 'carry_out', lambda config, *_: seen.append(config) or 0)
    here = dict(data_dir='D', kd_checkpoint='K', initial_checkpoint='I', resume='R', device='cpu', output='out')
    argv = [word for key, value in here.items() for word in ('--' + key.replace('_', '-'), value)]
    code, _, err = run_cli('replay', 'name/run.json', *argv)
    assert code == 0, err
    assert seen == [TrainConfig(experiment='name', **here)]


def test_validate_makes_the_model_asked_for(run_cli, monkeypatch):
    seen = []

    def note(*args, **kwargs):
        seen.append((args, kwargs))
        raise ValueError('noted')

    monkeypatch.setattr(engine, 'create_model', note)
    run_cli('validate', '--model', 'resnet18', '--pretrained', '--num-classes', '7', '--in-chans', '1')
    assert seen == [(('resnet18',), {'pretrained': True, 'num_classes': 7, 'in_chans': 1})]


@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        ((), ('torch/fashion_mnist', 'there')),
        (('--dataset', 'fashion_mnist', '--data-dir', 'D'), ('torch/fashion_mnist', 'D')),
        (('--dataset', 'torch/cifar10', '--data-dir', 'D'), ('torch/cifar10', 'D')),
        (('--dataset', 'digits'), ('digits', None)),
        (('--budget', 'full', '--data-dir', 'D'), ('torch/cifar100', 'D')),
    ],
)
def test_the_images_of_a_reproduction(run_cli, tmp_path, monkeypatch, argv, expected):
    seen = []
    (tmp_path / 'there').mkdir()
    monkeypatch.setattr(reproduce, 'DEBIAN', 'there')
    monkeypatch.setattr(reproduce, 'run_and_report', lambda args, plans, cells, folder: seen.extend(cells) or 0)
    code, _, err = run_cli('reproduce', 'dks-table1', '--row', 'resnet32-baseline', *argv)
    assert code == 0, err
    assert {(cell.settings['dataset'], cell.settings.get('data_dir')) for cell in seen} == {expected}


def test_a_reproduction_with_a_run_that_failed_has_failed(run_cli, monkeypatch):
    monkeypatch.setattr(reproduce, 'finish', lambda *_: 1)
    for name in ('run_grid', 'report', 'draw_groups'):
        monkeypatch.setattr(reproduce, name, lambda *_: None)
    assert run_cli('reproduce', 'dks-table1', '--row', 'resnet32-baseline')[0] == 1


def test_teachers_learn_from_the_images_of_their_pupils(run_cli, monkeypatch):
    seen = []
    monkeypatch.setattr(reproduce, 'run_and_report', lambda args, plans, cells, folder: seen.extend(cells) or 0)
    given = {'dataset': 'torch/cifar10', 'data_dir': 'D', 'device': 'cpu', 'workers': 4}
    argv = [word for key, value in given.items() for word in ('--' + key.replace('_', '-'), value)]
    assert run_cli('reproduce', 'dskd-table1', '--row', 'vgg13-vgg8-kd', '--no-equal-time', *argv)[0] == 0
    teachers = [need.settings for cell in seen for need in cell.needs]
    assert [{key: settings[key] for key in given} for settings in teachers] == [given]
