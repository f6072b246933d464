"""Grids of runs: compare and reproduce, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from finished import cell, finish

from benchmarks.reliability.runs import import_all, start, wait
from dkszoo.cli import compare, grids, reproduce
from dkszoo.cli.compare import make_cell, split_methods
from dkszoo.cli.reproduce import read_flags
from dkszoo.engine import TrainConfig
from dkszoo.engine.config import FILLED_IN
from dkszoo.engine.create import read_design
from dkszoo.engine.data import open_data
from dkszoo.engine.lock import FolderLock
from dkszoo.engine.record import hash_of
from dkszoo.papers import grid, processes
from dkszoo.papers.grid import Cell, read_result, run_grid, to_flags
from dkszoo.papers.processes import Processes
from dkszoo.papers.reproduce import SCALE

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
        'kd_checkpoint': '-odd/teacher.pth.tar',
    }
    again = read_flags(to_flags(settings))
    again['branches'] = read_design(again['branches'])
    assert TrainConfig.from_dict(again) == TrainConfig.from_dict(settings)


class Forked:
    """The command of a run in a fork of this process, which has all imports."""

    def __init__(self, command, **_):
        self.pid = start(tuple(command[command.index('train') :]), Path.cwd())

    def wait(self) -> int:
        return wait(self.pid)


def test_compare_prints_a_table_and_goes_on(run_cli, tmp_path, monkeypatch):
    import_all()
    monkeypatch.setattr(processes, 'subprocess', SimpleNamespace(Popen=Forked))
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


@pytest.mark.parametrize('signum', [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_stops_all_runs(signum, tmp_path, environment):
    """Also when the terminal sends it to the whole process group; what is running saves, nothing more is started."""
    argv = ('compare', '--methods', 'baseline,ds', '--seeds', '1', *TINY, '--epochs', '9999')
    command = [sys.executable, '-m', 'dkszoo', *argv]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    folder = tmp_path / 'runs/compare-cifar_resnet8'
    log, checkpoint = folder / 'baseline-seed0.log', folder / 'baseline-seed0/last.pth.tar'
    deadline = time.monotonic() + 300
    try:
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert checkpoint.exists(), process.stderr.read() if process.poll() is not None else 'no epoch in 300 s'
        os.killpg(process.pid, signum)
        said = process.communicate(timeout=300)[1]
    finally:
        process.terminate()
    assert said == f'dkszoo: stopped by {signum.name}; the same command resumes from here\n'
    assert process.returncode == 128 + signum
    assert log.read_text().endswith('dkszoo: stopped by SIGTERM; the same command resumes from here\n')
    assert not (folder / 'ds-seed0.log').exists()


def test_runs_are_of_the_package_that_starts_them(tmp_path, monkeypatch):
    """Not of another dkszoo in the current folder."""
    (tmp_path / 'dkszoo').mkdir()
    (tmp_path / 'dkszoo/__init__.py').touch()
    (tmp_path / 'dkszoo/__main__.py').write_text('raise SystemExit(77)')
    monkeypatch.chdir(tmp_path)
    assert Processes(tmp_path, None).run('r', ['--print-config']) == 0
    assert 'model: cifar_resnet20' in (tmp_path / 'r.log').read_text()


def test_compare_hands_on_what_it_is_given():
    settings = {'branches': 'linear', 'skip_nonfinite': 3, 'recovery_interval': 5, 'kd_model_name': 'cifar_resnet14'}
    with_branches = make_cell('kd:kd_on=branches', 0, settings).settings
    assert {key: with_branches[key] for key in settings} == settings
    assert 'branches' not in make_cell('kd', 0, settings).settings


def test_what_is_of_one_run_alone_is_not_handed_on():
    given = {'export': 'o.onnx', 'resume': 'r.pth.tar', 'overwrite': True}
    assert not make_cell('ds', 0, given).settings.keys() & given.keys()


def test_a_teacher_is_not_handed_to_methods_without():
    made = make_cell('ds', 0, {'kd_model_name': 'cifar_resnet14', 'kd_checkpoint': 'x.pth'})
    assert not [key for key in made.settings if key.startswith('kd_')]


def test_a_teacher_may_be_one_methods_own():
    assert make_cell('kd:kd_checkpoint=x.pth', 0, {}).settings['kd_checkpoint'] == 'x.pth'


def test_switches_of_one_method():
    for text in ('true', 'True'):
        assert make_cell(f'ds:model-ema={text}', 0, {}).settings['model_ema'] is True
    assert make_cell('ds:model_ema=false', 0, {}).settings['model_ema'] is False


def test_compare_refuses_what_train_refuses(run_cli, tmp_path):
    for argv, says in (
        (('--methods', 'baseline,dsk'), "unknown method 'dsk'"),
        (('--methods', 'dks:synergi=top-down'), "did you mean 'synergy'"),
        (('--methods', 'dks:synergy=sideways'), 'sideways'),
        (('--methods', 'ds,kd,ds'), "--methods has 'ds' twice (leave one out)"),
        (('--methods', 'ds:model_kwargs=7'), 'cannot be set for one method (give --model-kwargs)'),
        (('--methods', 'ds:seed=5'), "'ds:seed=5': seed cannot be set for one method (leave it out)"),
        (('--methods', 'ds:method=dks'), 'method cannot be set for one method'),
        (('--methods', 'ds:overwrite=true'), 'overwrite cannot be set for one method'),
        (('--methods', 'ds:lr=-1'), '--lr must be'),
        (('--methods', 'ds:kd_model_name=resnet18'), "method 'ds' has no use for a teacher"),
        (('--methods', 'ds:model_ema=maybe'), "model_ema: 'maybe' is not true or false"),
        (('--seeds', '0'), '--seeds and --jobs must be at least 1'),
        (('--jobs', '0'), '--seeds and --jobs must be at least 1'),
        (('--seed', '5'), '--seed 5'),
        (('--methods', 'baseline,dskd'), "method 'dskd' needs a teacher (give --kd-model-name"),
        (('--dataset', 'torch/cifar10'), 'give --data-dir'),
        (('--methods', 'baseline,ds:branches=dkz'), "unknown design 'dkz'"),
        (('--methods', 'baseline,ds', '--taps', '9'), 'no tap 9'),
        (('--methods', 'baseline', '--model', 'cifar_resnt8'), "unknown model 'cifar_resnt8'"),
        (('--methods', 'ds:taps=1', '--model-kwargs', 'chanels=[4,8,16]'), "cannot make model 'cifar_resnet8'"),
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
    assert split_methods('dks:taps=layer1,layer2,kd+ds:taps=0,ds') == ['dks:taps=layer1,layer2', 'kd+ds:taps=0', 'ds']
    assert split_methods('dks:synergy=top-down,dsk') == ['dks:synergy=top-down', 'dsk']
    cell = make_cell('dks:alpha=0.5,1:initial_checkpoint=a/b.pth', 0, {})
    assert cell.settings['alpha'] == (0.5, 1.0)
    assert '/' not in cell.name


def test_reproduce_dry_run_needs_no_data(run_cli, monkeypatch):
    monkeypatch.setattr(reproduce, 'seconds_per_work', lambda: 1e-11)
    code, out, err = run_cli('reproduce', 'dskd-table1', '--row', 'vgg13-vgg8', '--dry-run', '--no-equal-time')
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 10  # nine rows and the teacher of the methods that need one
    assert all(line.startswith('python train.py ') for line in lines)
    assert sum('--kd-checkpoint' in line for line in lines) == 5
    assert '--model cifar_vgg8 --method baseline' in lines[0]  # the teacher comes first
    assert 'hours' in err


def test_reproduce_one_row_with_its_baseline(run_cli, monkeypatch):
    monkeypatch.setattr(reproduce, 'seconds_per_work', lambda: 1e-11)
    where = ('--dataset', 'cifar10', '--data-dir', 'D')
    argv = ('reproduce', 'dks-table1', '--row', 'resnet32-dks', '--dry-run', '--no-equal-time', *where)
    code, out, err = run_cli(*argv)
    assert code == 0, err
    lines = out.splitlines()
    assert ['--method baseline' in line for line in lines] == [True, False]
    assert all('--dataset torch/cifar10' in line for line in lines)


def test_reproduce_mistakes(run_cli):
    for argv, says in (
        (('dks-tabl1',), 'dks-table1'),
        (('dks-table1', '--row', 'resnet33'), 'resnet32-baseline'),
        (('dks-table1', '--budget', 'tiny'), 'small'),
        (('dks-table1', '--jobs', '0'), '--seeds and --jobs must be at least 1'),
        (('dks-table1', '--row', 'resnet32-baseline', '--workers', '-1'), '--workers must be'),
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
    assert read_flags(teacher.command(Path('-o'))) == {'model': 'a', 'output': '-o', 'experiment': 't'}


@pytest.fixture
def events(monkeypatch):
    """Starts and ends of runs that do nothing, in their order; those called bad fail."""
    seen = []

    class Run:
        def __init__(self, command, env, **_):
            output, name = (command[command.index(key) + 1] for key in ('--output', '--experiment'))
            seen.append(f'{name} starts, threads: {env.get("OMP_NUM_THREADS")}')
            self.name, self.code = name, 1 if name.startswith('bad') else 0
            if not self.code:
                finish(Path(output) / name)

        def wait(self):
            time.sleep(0.2)  # for others to start
            seen.append(f'{self.name} ends')
            return self.code

    monkeypatch.setattr(processes.subprocess, 'Popen', Run)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    return seen


def test_teachers_come_first_and_threads_are_shared(events, tmp_path):
    said = []
    (tmp_path / 'bad.log').write_text('what an earlier try said\n')
    cells = [cell('alone'), cell('pupil', cell('teacher')), cell('second', cell('teacher')), cell('bad')]
    results = run_grid(cells, tmp_path, 2, said.append)
    assert events[:2] == ['teacher starts, threads: 4', 'teacher ends']
    assert [text.partition(':')[0] for text in said].count('teacher') == 1
    starts = [event for event in events if 'starts' in event]
    assert sorted(starts) == [f'{name} starts, threads: 4' for name in ('alone', 'bad', 'pupil', 'second', 'teacher')]
    assert set(results) == {'teacher', 'alone', 'pupil', 'second'}
    assert f'bad: failed with exit code 1 ({tmp_path / "bad"}.log)' in said
    assert (tmp_path / 'bad.log').read_text() == 'what an earlier try said\n'


def test_as_many_runs_at_a_time_as_asked_for(monkeypatch, tmp_path):
    together = threading.Barrier(2)

    def run(self, name, arguments) -> int:
        together.wait(20)  # fails if it stays alone
        finish(tmp_path / name)
        return 0

    monkeypatch.setattr(Processes, 'run', run)
    assert set(run_grid([cell('one'), cell('two')], tmp_path, 2, lambda text: None)) == {'one', 'two'}


def test_one_run_at_a_time_has_all_threads(events, tmp_path):
    run_grid([cell('one'), cell('two')], tmp_path, 1, lambda text: None)
    assert events == ['one starts, threads: None', 'one ends', 'two starts, threads: None', 'two ends']


def test_a_design_is_what_is_in_its_file(tmp_path):
    file = tmp_path / 'd.yaml'
    file.write_text('branches: [{tap: 1, stages: [1]}]')
    finish(tmp_path / 'x', branches=read_design(str(file)))
    made = Cell('x', {'branches': str(file)})
    assert grid.check_settings(made, tmp_path / 'x')
    file.write_text('branches: [{tap: 0, stages: [1]}]')
    with pytest.raises(ValueError, match='holds a run with --branches'):
        grid.check_settings(made, tmp_path / 'x')


def test_runs_of_other_settings_are_not_taken(tmp_path):
    """Those that a flag left out now had set, too; what the data set and the method fill in is free to them."""
    finish(tmp_path / 'x', lr=0.001, mean=[0.3], in_chans=1, branches='dks')
    with pytest.raises(ValueError, match=r'holds a run with --lr 0\.001, not 0\.1 \(--output'):
        grid.check_settings(Cell('x', {'in_chans': None}), tmp_path / 'x')
    assert grid.check_settings(Cell('x', {'lr': 0.001, 'in_chans': None, 'branches': ''}), tmp_path / 'x')
    with pytest.raises(ValueError, match='holds a run with --in-chans 1, not 3'):
        grid.check_settings(Cell('x', {'lr': 0.001, 'in_chans': 3}), tmp_path / 'x')
    record = json.loads((tmp_path / 'x/run.json').read_text())
    record['argv'] = ['train.py', '--branches', 'dks', '--mean=0.3']
    (tmp_path / 'x/run.json').write_text(json.dumps(record))
    with pytest.raises(ValueError, match='holds a run with --branches dks, not its default'):
        grid.check_settings(Cell('x', {'lr': 0.001}), tmp_path / 'x')
    with pytest.raises(ValueError, match=r'holds a run with --mean \[0\.3\], not its default'):
        grid.check_settings(Cell('x', {'lr': 0.001, 'branches': 'dks'}), tmp_path / 'x')
    assert grid.check_settings(Cell('x', {'lr': 0.001, 'branches': 'dks', 'mean': [0.3]}), tmp_path / 'x')


@pytest.mark.parametrize('name', ['kd_checkpoint', 'initial_checkpoint'])
def test_runs_of_another_file_by_the_same_name_are_not_taken(tmp_path, name):
    file = tmp_path / 'teacher.safetensors'
    file.write_text('first')
    settings = {'method': 'kd', name: str(file)}
    finish(tmp_path / 'x', **settings)
    record = json.loads((tmp_path / 'x/run.json').read_text())
    record[f'{name}_sha256'] = hash_of(str(file))
    (tmp_path / 'x/run.json').write_text(json.dumps(record))
    assert grid.check_settings(Cell('x', settings), tmp_path / 'x')
    file.write_text('second')
    with pytest.raises(ValueError, match=r"holds a run with another file '.*teacher.safetensors' \(--output names"):
        grid.check_settings(Cell('x', settings), tmp_path / 'x')
    file.unlink()  # finished runs need it no longer
    assert grid.check_settings(Cell('x', settings), tmp_path / 'x')


def test_every_model_is_made_before_the_first_run():
    settings = {'model': 'cifar_resnet8', 'dataset': 'digits', 'branches': 'dks'}
    wrong = Cell('wrong', {**settings, 'model_kwargs': {'chanels': [4, 8, 16]}})
    with pytest.raises(ValueError, match="cannot make model 'cifar_resnet8'"):
        grid.check_runs([wrong, Cell('right', settings)])


def test_one_mean_for_all_channels_is_the_same_again(tmp_path):
    finish(tmp_path / 'x', mean=[0.5, 0.5, 0.5], in_chans=3)
    made = Cell('x', {'mean': [0.5], 'in_chans': 3})
    assert grid.check_settings(made, tmp_path / 'x')


def test_what_follows_from_the_data_is_listed():
    config = TrainConfig(method='dks', val_split=0.5)
    filled, default = open_data(config)[0].to_dict(), config.to_dict()
    assert {key for key in filled if filled[key] != default[key]} <= set(FILLED_IN)
    assert all(default[key] in (None, '', 'auto') for key in FILLED_IN)


def test_a_run_that_outlived_its_grid_is_waited_for(events, tmp_path):
    (tmp_path / 'one').mkdir()
    ready, go = os.pipe(), os.pipe()
    if not (pid := os.fork()):  # a lock is a process's
        FolderLock(tmp_path / 'one').acquire()
        os.write(ready[1], b'x')
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    thread = threading.Thread(target=run_grid, args=([cell('one')], tmp_path, 1, lambda text: None))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert not events
    os.write(go[1], b'x')
    os.waitpid(pid, 0)
    thread.join(60)
    assert events == ['one starts, threads: None', 'one ends']


def test_pupils_of_a_teacher_that_failed_are_not_started(events, tmp_path):
    said = []
    assert not run_grid([cell('pupil', cell('bad'))], tmp_path, 1, said.append)
    assert said == [f'bad: failed with exit code 1 ({tmp_path / "bad"}.log)']
    assert events == ['bad starts, threads: None', 'bad ends']


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match=r'cannot write into .*\(choose another --output\)'):
        run_grid([cell('one')], tmp_path / 'file/grid', 1, pytest.fail)


def test_the_first_that_failed_is_the_teacher(capsys, tmp_path):
    assert grids.finish([cell('student', cell('teacher'))], {}, 'table', tmp_path / 'table.md') == 1
    assert '2 of 2 runs failed, the first is teacher' in capsys.readouterr().err


def test_a_table_that_cannot_be_written(capsys, tmp_path):
    assert grids.finish([], {}, 'table', tmp_path / 'gone/table.md') == 1
    out, err = capsys.readouterr()
    assert (out, 'cannot write' in err) == ('table\n', True)


@pytest.mark.usefixtures('events')
def test_failed_runs_are_counted(run_cli, monkeypatch):
    monkeypatch.setattr(compare, 'make_cell', lambda method, seed, settings: cell(f'{method}-{seed}'))
    code, _, err = run_cli('compare', '--methods', 'baseline,bad', '--seeds', '1', '--dataset', 'digits')
    assert code == 1
    assert '1 of 2 runs failed, the first is bad-0' in err.splitlines()[-1]


def test_the_time_of_a_run_is_training_and_evaluation(tmp_path):
    (tmp_path / 'log.jsonl').write_text('{"seconds": {"train": 1.0, "evaluate": 0.5}}\n' * 2)
    assert grid.read_seconds(tmp_path / 'log.jsonl') == 3.0


def test_flags_beat_the_recipe_of_a_comparison(run_cli, monkeypatch):
    seen = []
    monkeypatch.setattr(compare, 'run_and_report', lambda cells, folder, jobs: seen.append(cells) or 0)
    assert run_cli('compare', '--config', 'quickstart', '--methods', 'ds', '--epochs', '7')[0] == 0
    assert seen[0]['ds'][0].settings['epochs'] == 7


def test_hours_are_of_all_runs(run_cli, monkeypatch):
    monkeypatch.setattr(reproduce, 'cell_work', lambda cell: 3600.0)
    monkeypatch.setattr(reproduce, 'seconds_per_work', lambda: 1.0)
    _, _, err = run_cli('reproduce', 'dskd-table1', '--row', 'vgg13-vgg8', '--dry-run', '--no-equal-time')
    assert err.splitlines()[-1].startswith('# 10 runs, about 10.0 core hours')
