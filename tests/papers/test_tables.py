"""The papers' numbers as data: every row sound, every gain recomputed."""

import dataclasses

import pytest
import timm
import torch

from dkszoo.cli.reproduce import read_flags
from dkszoo.engine import TrainConfig
from dkszoo.engine.optim import build_scheduler, set_rates
from dkszoo.papers import list_recipes, read_recipe, reproduce
from dkszoo.papers.records import list_tables, read_table
from dkszoo.papers.reproduce import SCALE, plan_table

TABLES = ('dks-table1', 'dks-table2', 'dks-table3', 'dks-table4', 'dks-table5', 'dks-table6', 'dks-text')
TABLES += ('dskd-table1', 'dskd-table2', 'dskd-table3')


def test_all_tables_are_there():
    assert set(list_tables()) == set(TABLES)
    assert [len(read_table(name)) for name in TABLES] == [24, 18, 10, 12, 12, 12, 22, 70, 4, 8]


@pytest.mark.parametrize('name', TABLES)
def test_rows(name):
    records = read_table(name)
    assert len({r.row for r in records}) == len(records)
    for record in records:
        assert timm.is_model(record.model)
        assert record.recipe in list_recipes()
        settings = read_recipe(record.recipe)
        arguments = ['4' if a == 'T' else a for a in record.arguments]
        TrainConfig.from_dict({**settings, 'model': record.model, 'method': record.method, **read_flags(arguments)})


@pytest.mark.parametrize('name', TABLES)
def test_gains_recompute(name):
    """Each published gain is the difference of two published accuracies (or errors), to the last digit."""
    records = read_table(name)
    for record in records:
        if record.gain is None:
            continue
        base = next(r for r in records if r.group == record.group)
        sign = -1 if record.metric.endswith('_err') else 1
        assert sign * (record.value - base.value) == pytest.approx(record.gain, abs=0.0051), record.row


def test_the_mean_gains_the_dskd_paper_claims():
    values = {r.row: r.value for r in read_table('dskd-table1')}
    pairs = {row.removesuffix('-dskd') for row in values if row.endswith('-dskd')}
    gains = [values[f'{pair}-dskd'] - values[f'{pair}-vid'] for pair in pairs]
    assert sum(gains) / 7 == pytest.approx(1.457, abs=0.001)  # "about 1.46" in the text
    below = [pair for pair in pairs if values[f'{pair}-byot'] < values[f'{pair}-baseline']]
    assert len(below) == 2  # "BYOT sometimes performs worse than the student"


@pytest.mark.parametrize('budget', ['small', 'medium', 'full'])
def test_every_row_can_be_planned(budget):
    for name in TABLES:
        for plan in plan_table(read_table(name), budget, 2, read_flags, {'data_dir': 'D'}, equal_time=False):
            for cells in plan.cells:
                assert [cell.settings['seed'] for cell in cells] == [0, 1]
                config = TrainConfig.from_dict(cells[0].settings)
                assert timm.is_model(config.model)
                assert bool(cells[0].needs) == ('--kd-model-name' in plan.record.arguments)
                assert max(config.decay_milestones) < config.epochs or config.sched != 'multistep'


def test_the_name_of_a_run_is_of_what_makes_its_result():
    def name(**overrides):
        return plan_table(read_table('dks-table1')[:1], 'small', 1, read_flags, overrides)[0].cells[0][0].name

    same = name(data_dir='/d')
    assert name(data_dir='/d/') == name(data_dir='/d', workers=4) == same
    assert len({same, name(data_dir='/e'), name(data_dir='/d', device='cpu'), name(data_dir='/d', lr=0.2)}) == 4


def first_settings(budget):
    return plan_table(read_table('dks-table1')[:1], budget, 1, read_flags, {})[0].cells[0][0].settings


def test_scaled_runs_keep_what_makes_the_recipe():
    paper, small, medium = read_recipe('dks_resnet'), first_settings('small'), first_settings('medium')
    for key in ('opt', 'lr', 'momentum', 'weight_decay'):
        assert small[key] == medium[key] == paper[key]
    assert all(medium[key] == paper[key] for key in ('sched', 'decay_rate', 'val_split', 'best_on'))
    assert medium['decay_milestones'] == [19, 37, 55]  # of 60 epochs, as 61, 121, 181 of 200
    assert (small['sched'], small['best_on'], small['no_aug']) == ('cosine', 'val', True)
    assert not [key for key in small if key.startswith('decay_')]  # drops of another schedule
    assert small['epochs'] == SCALE['small']['epochs']


def test_equal_time_runs_are_longer_baselines():
    plans = plan_table(read_table('dks-table1')[:3], 'medium', 2, read_flags, {})
    assert plans[0].equal_time == ()
    (base, _), (long, other) = plans[0].cells[0], plans[2].equal_time
    epochs = long.settings['epochs']
    assert epochs > base.settings['epochs']
    assert long.settings['method'] == 'baseline'
    assert other.settings['seed'] == 1
    share = epochs / base.settings['epochs']
    drops = [1 + round((drop - 1) * share) for drop in base.settings['decay_milestones']]
    assert long.settings == {**base.settings, 'epochs': epochs, 'decay_milestones': drops}


def test_the_same_run_is_planned_once():
    plans = plan_table(read_table('dks-table4'), 'small', 1, read_flags, {}, equal_time=False)
    names = [cell.name for plan in plans for cells in plan.cells for cell in cells]
    assert len(names) == 12
    assert len(set(names)) == 6  # top-1 and top-5 are figures of one run


def test_records_are_plain():
    record = read_table('dks-table1')[2]
    assert (record.row, record.value, record.std, record.gain) == ('resnet32-dks', 26.81, 0.36, 3.16)
    assert dataclasses.is_dataclass(record)
    with pytest.raises(ValueError, match=r'did you mean dks-table1\? tables: dks-table1, '):
        read_table('dks-tabel1')


@pytest.mark.parametrize('budget', ['small', 'medium', 'full'])
def test_one_folder_is_one_run(monkeypatch, budget):
    """Runs that share a folder are the same, down to their teacher's."""
    monkeypatch.setattr(reproduce, 'cell_work', lambda cell: 30 - len(cell.settings['method']))  # only names matter
    found = {}
    for name in TABLES:
        for plan in plan_table(read_table(name), budget, 1, read_flags, {}):
            for cell in (*(c for cells in plan.cells for c in cells), *plan.equal_time):
                for each in (cell, *cell.needs):
                    known = found.setdefault(each.name, each)
                    assert (known.settings, known.needs) == (each.settings, each.needs)
    assert any('baseline_long' in name for name in found)


def test_teachers_have_their_own_recipe():
    """A mobile student learns at a fifth of the rate, its teacher does not."""
    rates = set()
    for plan in plan_table(read_table('dskd-table1'), 'full', 1, read_flags, {}, equal_time=False):
        ((cell,),) = plan.cells
        for teacher in cell.needs:
            rates.add((cell.settings['lr'], teacher.settings['lr'], teacher.settings['method']))
    assert rates == {(0.05, 0.05, 'baseline'), (0.01, 0.05, 'baseline')}


@pytest.mark.parametrize(
    ('name', 'after'),
    [
        ('dks_resnet', (60, 120, 180)),
        ('dks_wrn', (59, 119, 159)),
        ('dks_densenet', (150, 225)),
        ('dks_densenet_cifar10', (150, 225)),
        ('dks_imagenet', (30, 60, 90)),
        ('dskd', (150, 180, 210)),
        ('dskd_mobile', (150, 180, 210)),
    ],
)
def test_rates_drop_after_as_many_epochs_as_the_papers_say(name, after):
    settings = read_recipe(name)
    config = TrainConfig.from_dict({**settings, 'data_dir': 'D'})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    scheduler, rates = build_scheduler(config, optimizer, 10), []
    for epoch in range(config.epochs):
        set_rates(scheduler, config, 10, epoch, 0)
        rates.append(optimizer.param_groups[0]['lr'])
    drops = tuple(epoch for epoch in range(1, config.epochs) if rates[epoch] < rates[epoch - 1])
    assert drops == after  # so many epochs are done by then
    assert rates[-1] == pytest.approx(config.lr * config.decay_rate ** len(after))


@pytest.mark.parametrize(
    ('name', 'expected'),  # optimizer, rate, momentum, weight decay, batch, epochs, factor of a drop
    [
        ('dks_resnet', ('momentum', 0.1, 0.9, 1e-4, 64, 200, 0.1)),
        ('dks_wrn', ('momentum', 0.1, 0.9, 5e-4, 128, 200, 0.2)),
        ('dks_densenet', ('nesterov', 0.1, 0.9, 1e-4, 64, 300, 0.1)),
        ('dks_imagenet', ('momentum', 0.1, 0.9, 1e-4, 256, 100, 0.1)),
        ('dskd', ('momentum', 0.05, 0.9, 5e-4, 64, 240, 0.1)),
    ],
)
def test_recipes_have_the_settings_of_the_papers(name, expected):
    config = TrainConfig.from_dict({**read_recipe(name), 'data_dir': 'D'})
    optimizer = (config.opt, config.lr, config.momentum, config.weight_decay)
    assert (*optimizer, config.batch_size, config.epochs, config.decay_rate) == expected


def test_recipes_of_the_papers_hold_nothing_out():
    for name in set(list_recipes()) - {'quickstart'}:
        settings = read_recipe(name)
        assert (settings['val_split'], settings['best_on']) == (0.0, 'test'), name
        assert settings.get('pad_mode') == ('reflect' if name == 'dks_wrn' else None), name
