"""From rows of the papers to runs: how long they are, what they are run on, and what they are predicted to take."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

import dkszoo
from dkszoo.cli.reproduce import read_flags
from dkszoo.papers import workload
from dkszoo.papers.records import read_table
from dkszoo.papers.reproduce import cell_work, longer, named, plan_table, stretched
from dkszoo.papers.workload import seconds_per_work, work


def test_a_longer_run_drops_at_the_same_share():
    settings = {'model': 'm', 'method': 'baseline', 'seed': 0, 'epochs': 60}
    cell = named('baseline', {**settings, 'decay_milestones': [19, 37, 55], 'decay_epochs': 20})
    longest = longer(cell, 1.5).settings
    assert longest == {**settings, 'epochs': 90, 'decay_milestones': [28, 55, 82], 'decay_epochs': 30}
    assert longer(cell, 1.004) is None
    assert longer(named('kd', {**settings, 'method': 'kd'}, (cell,)), 1.5).needs == (cell,)
    shortest = stretched({'epochs': 200, 'decay_milestones': [2, 100], 'decay_epochs': 3}, 10)
    assert shortest == {'epochs': 10, 'decay_milestones': [2, 6], 'decay_epochs': 1}


def test_equal_time_is_the_ratio_of_the_work():
    plan = plan_table(read_table('dks-table1')[:3], 'small', 1, read_flags, {})[2]
    assert cell_work(plan.equal_time[0]) == pytest.approx(cell_work(plan.cells[0][0]), rel=0.05)


def test_each_seed_has_a_teacher_of_its_own():
    records = [r for r in read_table('dskd-table1') if '--kd-model-name' in r.arguments][:1]
    (plan,) = plan_table(records, 'small', 3, read_flags, {}, equal_time=False)
    assert [cell.needs[0].settings['seed'] for cell in plan.cells[0]] == [0, 1, 2]


def test_scaled_runs_take_the_statistics_of_their_own_data():
    record = next(r for r in read_table('dks-table1') if r.recipe == 'dks_wrn')
    ((cell,),) = plan_table([record], 'small', 1, read_flags, {}, equal_time=False)[0].cells
    assert not {'mean', 'std', 'train_crop_mode'} & cell.settings.keys()


def test_a_data_set_of_fewer_images_is_taken_whole():
    records = read_table('dks-table1')[:1]
    for dataset, asked in (('digits', None), ('torch/fashion_mnist', 2000)):
        ((cell,),) = plan_table(records, 'small', 1, read_flags, {'dataset': dataset}, equal_time=False)[0].cells
        assert cell.settings['train_num_samples'] == asked


def test_a_network_without_a_stand_in():
    record = dataclasses.replace(read_table('dks-table1')[0], model='cifar_vgg16')
    with pytest.raises(ValueError, match=r"budget 'small' has no stand-in for 'cifar_vgg16' .*scale\.yaml"):
        plan_table([record], 'small', 1, read_flags, {})


def test_images_that_are_not_trained_on_are_no_work():
    settings = {'dataset': 'digits', 'model': 'cifar_resnet8', 'epochs': 2, 'method': 'baseline'}
    whole = work({**settings, 'val_split': 0.0, 'best_on': 'test'})
    assert work({**settings, 'val_split': 0.5}) == pytest.approx(0.5 * whole)
    assert work({**settings, 'train_num_samples': 719}) == pytest.approx(0.5 * whole)


def test_smaller_batches_are_more_updates_of_as_many_images():
    settings = {'dataset': 'digits', 'model': 'cifar_resnet8', 'epochs': 2, 'method': 'baseline'}
    assert 1 < work({**settings, 'batch_size': 32}) / work({**settings, 'batch_size': 64}) < 1.5


def test_larger_images_of_more_channels_are_more_work():
    settings = {'dataset': 'digits', 'model': 'cifar_resnet8', 'epochs': 2, 'method': 'baseline'}
    plain, coloured = work(settings), work({**settings, 'in_chans': 3})
    assert plain < coloured < 1.1 * plain
    assert work({**settings, 'img_size': 64}) == pytest.approx(4 * plain, rel=0.2)


def test_thinner_networks_with_fewer_branches_are_less_work():
    settings = {'dataset': 'digits', 'model': 'cifar_resnet8', 'epochs': 2, 'method': 'dks'}
    assert work({**settings, 'model_kwargs': {'channels': [4, 8, 16], 'stem_chs': 4}}) < 0.5 * work(settings)
    assert work({**settings, 'taps': [1]}) < 0.9 * work(settings)


def test_a_unit_of_work_takes_the_median_step(monkeypatch):
    """On one thread, the first step left out."""
    threads = []

    def clock():
        threads.append(torch.get_num_threads())
        return next(times)

    times = itertools.accumulate(x for seconds in (100.0, 1.0, 2.0, 3.0, 4.0, 50.0) for x in (7.0, seconds))
    monkeypatch.setattr(workload, 'time', SimpleNamespace(perf_counter=clock))
    torch.set_num_threads(2)
    found = dkszoo.cost('cifar_resnet8', 'dks', batch_size=2)
    step = sum(found.step_work(part) for part in (found.backbone, *found.branches))
    assert seconds_per_work('cifar_resnet8', batch_size=2) == pytest.approx(3.0 / step)
    assert set(threads) == {1}
    assert torch.get_num_threads() == 2


def test_a_teacher_adds_its_forward_pass():
    settings = {'dataset': 'digits', 'model': 'cifar_resnet8', 'epochs': 2, 'train_num_samples': 640, 'batch_size': 64}
    teacher = {**settings, 'model': 'cifar_resnet14', 'method': 'baseline'}
    more = work({**settings, 'method': 'kd'}, teacher) - work({**settings, 'method': 'kd'})
    assert more == pytest.approx(work(teacher) / 3)  # of the three passes that make a step
