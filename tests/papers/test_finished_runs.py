"""What a grid makes of runs that were finished before it, and of those that leave nothing."""

import errno
import os
from pathlib import Path

import pytest
import torch
from finished import cell, finish

from dkszoo.cli.compare import make_cell
from dkszoo.cli.grids import finish as finish_grid
from dkszoo.papers import grid, processes
from dkszoo.papers.grid import Cell, read_result, run_grid
from dkszoo.papers.processes import Processes

SETTINGS = {'model': 'cifar_resnet8', 'dataset': 'torch/cifar10', 'data_dir': 'gone', 'seed': 0}
TEACHER = Cell('teacher', SETTINGS)
PUPIL = Cell('pupil', {**SETTINGS, 'method': 'kd'}, (TEACHER,))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A teacher and its pupil, both done, where nothing may be started any more."""
    monkeypatch.setattr(Processes, 'run', pytest.fail)
    finish(tmp_path / 'teacher', **SETTINGS)
    finish(tmp_path / 'pupil', **PUPIL.settings, kd_checkpoint=str(tmp_path / 'teacher/model_best.pth.tar'))
    return tmp_path


def test_finished_runs_need_neither_their_data_nor_a_process(finished):
    said = []
    assert set(run_grid([TEACHER, PUPIL], finished, 1, said.append)) == {'teacher', 'pupil'}
    assert [text.partition(':')[0] for text in said] == ['teacher', 'pupil']


@pytest.mark.parametrize(('jobs', 'threads'), [(1, None), (3, 2), (16, 1)])
def test_every_run_has_a_thread(finished, monkeypatch, jobs, threads):
    seen = []
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    monkeypatch.setattr(grid, 'Processes', lambda *args: seen.append(args) or Processes(*args))
    run_grid([PUPIL], finished, jobs, lambda _: None)
    assert seen == [(finished, threads)]


def test_a_pupil_that_is_done_needs_its_teacher_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, 'run', lambda *_: 1)
    finish(tmp_path / 'pupil', model='cifar_resnet8', seed=0)
    assert set(run_grid([cell('pupil', cell('teacher'))], tmp_path, 1, lambda _: None)) == {'pupil'}


def test_a_run_that_another_grid_ends_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, 'run', pytest.fail)
    monkeypatch.setattr(grid, 'wait_until_free', lambda folder, _: finish(folder))
    assert set(run_grid([cell('one')], tmp_path, 1, lambda _: None)) == {'one'}


def test_a_run_that_another_grid_starts_in_the_same_seconds(tmp_path, monkeypatch):
    codes, others = iter([2, 2]), iter(['none', 'killed', 'finished'])

    def wait_until_free(folder, _) -> bool:
        if (other := next(others)) == 'finished':
            finish(folder)
        return other != 'none'

    monkeypatch.setattr(Processes, 'run', lambda *_: next(codes))
    monkeypatch.setattr(grid, 'wait_until_free', wait_until_free)
    assert set(run_grid([cell('one')], tmp_path, 1, lambda _: None)) == {'one'}


def test_a_run_without_a_result_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, 'run', lambda *_: 0)
    said = []
    assert not run_grid([cell('one')], tmp_path, 1, said.append)
    assert said == [f'one: failed with exit code 0 ({tmp_path / "one"}.log)']


def test_teachers_are_counted_among_the_failed(tmp_path, capsys):
    assert finish_grid([PUPIL], {}, 'text', tmp_path / 'table.md') == 1
    assert '2 of 2 runs failed, the first is teacher (see its .log' in capsys.readouterr().err


def test_a_table_that_has_no_room_keeps_the_old_one(tmp_path, monkeypatch, capsys):
    (tmp_path / 'table.md').write_text('old')
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'Full')))
    assert finish_grid([], {}, 'text', tmp_path / 'table.md') == 1
    line = (
        f"cannot write the table: [Errno 28] Full: '{tmp_path}/table.md' (free some space; the same command writes it)"
    )
    assert line in capsys.readouterr().err
    assert (tmp_path / 'table.md').read_text() == 'old'


def test_a_file_is_teacher_enough():
    assert make_cell('kd', 0, {'kd_checkpoint': 'x.pth'}).settings['kd_checkpoint'] == 'x.pth'


@pytest.mark.parametrize('seconds', ['7', '{"train": "1"}', '{"train": -1.0}', '{"train": NaN}'])
def test_a_log_that_tells_no_times(tmp_path, seconds):
    finish(tmp_path / 'one', **SETTINGS)
    with open(tmp_path / 'one/log.jsonl', 'a') as file:
        file.write(f'{{"seconds": {seconds}}}\n')
    with pytest.raises(ValueError, match=r"cannot read .*log\.jsonl'"):
        read_result(tmp_path / 'one')


def test_runs_find_what_their_grid_finds(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(processes.subprocess, 'Popen', lambda command, env, **_: seen.append(env['PYTHONPATH']))
    monkeypatch.setenv('PYTHONPATH', 'mine')
    Processes(tmp_path, None).start(['train'], tmp_path / 'one.log')
    assert seen == [os.pathsep.join([str(Path(grid.__file__).parents[2]), 'mine'])]
