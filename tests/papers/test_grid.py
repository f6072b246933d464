"""Grids of runs: compare and reproduce, killed and gone on with."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dkszoo.cli.compare import make_cell, split_methods
from dkszoo.cli.reproduce import read_flags
from dkszoo.engine import TrainConfig
from dkszoo.engine.create import read_design
from dkszoo.papers.grid import Cell, Result, read_result, to_flags
from dkszoo.papers.records import list_tables, read_table
from dkszoo.papers.report import compare_methods, gain, measure, report
from dkszoo.papers.reproduce import SCALE, plan_table

THIN = ('--model', 'cifar_resnet8', '--model-kwargs', 'channels=[4,8,16]', 'stem_chs=4', '--device', 'cpu')
TINY = (*THIN, '--dataset', 'digits', '--epochs', '1', '--batch-size', '256', '--workers', '0')


def test_flags_give_the_settings_back():
    settings = {
        'model': 'cifar_resnet8',
        'model_kwargs': {'channels': [4, 8, 16], 'shortcut': 'pad'},
        'branches': {'branches': [{'tap': 1, 'stages': [1]}]},
        'amp': True,
        'model_ema': False,
        'alpha': [0.5, 1.0],
        'beta': [[0.0, 1.0], [1.0, 0.0]],
        'taps': ['layer1', 1],
        'lr': 0.05,
        'data_dir': None,
        'mean': [-0.5],
    }
    again = read_flags(to_flags(settings))
    again['branches'] = read_design(again['branches'])
    assert TrainConfig.from_dict(again) == TrainConfig.from_dict(settings)


def test_compare_prints_a_table_and_goes_on(run_cli, tmp_path):
    argv = ('compare', '--methods', 'baseline,dks:synergy=top-down', '--seeds', '1', *TINY, '--beta', '0.5')
    code, out, err = run_cli(*argv)
    assert code == 0, err + out
    lines = [line for line in out.splitlines() if line.startswith('| ')]
    assert [line.split('|')[1].strip() for line in lines] == ['method', 'baseline', 'dks:synergy=top-down']
    folder = tmp_path / 'runs/compare-cifar_resnet8'
    assert (folder / 'table.md').read_text().strip() == '\n'.join(
        line for line in out.splitlines() if line.startswith('|')
    )
    record = read_result(folder / 'dks-synergy_top-down-seed0').record
    assert (record['settings']['synergy'], record['settings']['beta']) == ('top-down', 0.5)
    assert read_result(folder / 'baseline-seed0').record['settings']['beta'] is None
    # the same command again trains nothing and prints the same table
    stamp = (folder / 'baseline-seed0/last.pth.tar').stat().st_mtime_ns
    code, again, _ = run_cli(*argv)
    assert code == 0
    assert again == out
    assert (folder / 'baseline-seed0/last.pth.tar').stat().st_mtime_ns == stamp
    # another training is not passed off as this one
    code, _, err = run_cli(*argv, '--epochs', '2')
    assert code == 2
    assert 'baseline-seed0' in err.splitlines()[-1]
    assert 'holds a run with --epochs 1, not 2' in err.splitlines()[-1]


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_runs(signum, tmp_path, environment):
    """Also when the terminal sends it to the whole process group; what is running saves, nothing more is started."""
    argv = ('compare', '--methods', 'baseline,ds', '--seeds', '1', *TINY, '--epochs', '9999')
    command = [sys.executable, '-m', 'dkszoo', *argv]
    grid = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    folder = tmp_path / 'runs/compare-cifar_resnet8'
    log, checkpoint = folder / 'baseline-seed0.log', folder / 'baseline-seed0/last.pth.tar'
    for _ in range(600):
        if checkpoint.exists() or grid.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(grid.pid, signum)
    assert grid.communicate(timeout=60)[1] == f'dkszoo: stopped by {signum.name}; the same command goes on from here\n'
    assert grid.returncode == 128 + signum
    assert log.read_text().endswith('dkszoo: stopped by SIGTERM; the same command goes on from here\n')
    assert not (folder / 'ds-seed0.log').exists()


def test_compare_hands_on_what_it_is_given():
    settings = {'branches': 'linear', 'skip_nonfinite': 3, 'recovery_interval': 5, 'kd_model_name': 'cifar_resnet14'}
    with_branches = make_cell('kd:kd_on=branches', 0, settings).settings
    assert {key: with_branches[key] for key in settings} == settings
    assert 'branches' not in make_cell('kd', 0, settings).settings


def test_compare_refuses_what_train_refuses(run_cli, tmp_path):
    for argv, says in (
        (('--methods', 'baseline,dsk'), "unknown method 'dsk'"),
        (('--methods', 'dks:synergi=top-down'), "did you mean 'synergy'"),
        (('--methods', 'dks:synergy=sideways'), 'sideways'),
        (('--seeds', '0'), '--seeds'),
        (('--seed', '5'), '--seed 5'),
        (('--methods', 'baseline,dskd'), "method 'dskd' needs a teacher (give --kd-model-name"),
        (('--dataset', 'torch/cifar10'), 'give --data-dir'),
    ):
        code, _, err = run_cli('compare', *TINY, *argv)
        assert code == 2
        assert says in err.splitlines()[-1]
        assert not list(tmp_path.rglob('*.log'))


def test_lists_in_the_settings_of_a_method():
    assert split_methods('baseline,dks:taps=0,1,ds:alpha=.5,1:lr=0.1,kd+ds') == [
        'baseline',
        'dks:taps=0,1',
        'ds:alpha=.5,1:lr=0.1',
        'kd+ds',
    ]
    cell = make_cell('dks:alpha=0.5,1:initial_checkpoint=a/b.pth', 0, {})
    assert cell.settings['alpha'] == (0.5, 1.0)
    assert '/' not in cell.name


def result(last: float, best: float | None = None, seed: int = 0) -> Result:
    values = {'last': last, 'best': last if best is None else best}
    return Result({'seed': seed, 'result': {k: {'top1': v, 'top5': 99.0} for k, v in values.items()}}, 10.0, None)


def test_gains_of_the_last_epoch_and_of_the_best():
    text = compare_methods({'ds': [result(70, 71)], 'dks': [result(73, 72)]})
    assert [cell.strip() for cell in text.splitlines()[-1].split('|')[5:7]] == ['+3.00', '+1.00']


def test_gains_are_paired_by_seed():
    record = read_table('dks-table1')[2]
    base, runs = ({seed: result(0, top1 + seed, seed) for seed in range(3)} for top1 in (70, 72))
    assert gain(record, runs, record, base, 'best') == '+2.00 +- 0.00'


def test_the_best_temperature_stands_in_the_table():
    record = next(r for name in list_tables() for r in read_table(name) if 'T' in r.arguments)
    (plan,) = plan_table([record], 'small', 1, read_flags, {}, False)
    runs = {cells[0].name: result(60, 60 + i % 3) for i, cells in enumerate(plan.cells)}
    assert measure(plan, runs).temperature == 5


def test_nobody_takes_the_place_of_a_baseline_that_failed():
    def gains(text):
        return [line.split('|')[-5:-1] for line in text.splitlines()[2:]]

    text = compare_methods({'baseline': [], 'ds': [result(71)], 'dks': [result(75)]})
    assert [[cell.strip() for cell in row] for row in gains(text)] == [
        ['71.00', '', '', '10 s'],
        ['75.00', '', '', '10 s'],
    ]
    text = compare_methods({'ds': [result(71)], 'dks': [result(75)]})
    assert '+4.00' in text
    records = [r for r in read_table('dks-table1') if r.group == 'resnet32']
    plans = plan_table(records, 'small', 1, read_flags, {}, False)
    runs = {plan.cells[0][0].name: result(70.0 + i) for i, plan in enumerate(plans)}
    assert '+1.00' in report(plans, runs)
    del runs[plans[0].cells[0][0].name]
    assert '+1.00' not in report(plans, runs)


def test_reproduce_dry_run_needs_no_data(run_cli, monkeypatch):
    from dkszoo.cli import reproduce

    monkeypatch.setattr(reproduce, 'seconds_per_work', lambda: 1e-11)  # measuring is tested below
    code, out, err = run_cli('reproduce', 'dskd-table1', '--row', 'vgg13-vgg8', '--dry-run', '--no-equal-time')
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 10  # nine rows and the teacher of the methods that need one
    assert all(line.startswith('python train.py ') for line in lines)
    assert sum('--kd-checkpoint' in line for line in lines) == 5
    assert '--model cifar_vgg8 --method baseline' in lines[0]  # the teacher comes first
    assert 'hours' in err


def test_seconds_per_work_is_measured():
    from dkszoo.papers.workload import seconds_per_work

    assert 1e-14 < seconds_per_work('cifar_resnet8', batch_size=2) < 1e-7


def test_reproduce_mistakes(run_cli):
    for argv, says in (
        (('dks-tabl1',), 'dks-table1'),
        (('dks-table1', '--row', 'resnet33'), 'resnet32-baseline'),
        (('dks-table1', '--budget', 'tiny'), 'small'),
    ):
        code, _, err = run_cli('reproduce', *argv, '--dry-run')
        assert code == 2
        assert says in err.splitlines()[-1]


@pytest.mark.slow
def test_reproduce_runs_a_row_on_digits(run_cli, tmp_path, monkeypatch):
    scale = {**SCALE['small'], 'epochs': 3, 'settings': {'train_num_samples': 200, 'batch_size': 50}}
    monkeypatch.setitem(SCALE, 'small', scale)
    argv = ('reproduce', 'dks-table1', '--row', 'resnet32-dks', '--dataset', 'digits', '--device', 'cpu', '-j', '0')
    code, out, err = run_cli(*argv)
    assert code == 0, err
    assert '| resnet32-dks' in out
    assert '26.81(0.36)' in out
    folder = tmp_path / 'runs/reproduce-small'
    assert (folder / 'dks-table1.png').read_bytes().startswith(b'\x89PNG')
    assert (folder / 'dks-table1.md').read_text().strip() in out
    (long,) = folder.glob('*baseline_long*/summary.csv')  # at equal time
    assert len(long.read_text().splitlines()) > 1 + 3
    assert code == run_cli(*argv)[0]


def test_cell_names_its_teachers_checkpoint(tmp_path):
    teacher = Cell('t', {'model': 'a'})
    command = Cell('s', {'model': 'b'}, (teacher,)).command(tmp_path)
    assert command[command.index('--kd-checkpoint') + 1] == str(tmp_path / 't/model_best.pth.tar')
