"""A run that was broken off goes on as if it had not been."""

import csv
import json
import math
import os
import shutil
import time

import pytest
import timm
import torch
import yaml

from benchmarks.reliability.kills import kills
from benchmarks.reliability.runs import FOLDER, MIXED, PLAIN, differences, digest, outcome, reference, start, wait
from dkszoo.engine.checkpoint import BEST, LAST, read_checkpoint, recovery_files

TERMINATED = 143


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[1000] ^= 8  # in the pickle
    path.write_bytes(data)


@pytest.mark.slow
def test_a_dozen_kills():
    assert kills(12, seed=1)


@pytest.mark.parametrize('step', [1, 7, 20])
def test_stopped_at_a_step(run_cli, tmp_path, stop_at_step, step):
    stop_at_step(step)
    code, _, err = run_cli(*PLAIN)
    assert code == TERMINATED, err
    assert err.splitlines()[-1] == 'dkszoo: stopped by SIGTERM; the same command resumes from here'
    # two steps make an update; the group that was begun is ended first; seven steps are an epoch
    expected = {1: '0-2', 7: '0-7', 20: '2-6'}[step]
    assert recovery_files(tmp_path / FOLDER)[0].name == f'recovery-{expected}.pth.tar'
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)


def test_a_stop_says_without_which_flag_it_goes_on(run_cli, stop_at_step):
    stop_at_step(1)
    err = run_cli(*PLAIN, '--overwrite')[2]
    assert err.splitlines()[-1] == 'dkszoo: stopped by SIGTERM; the same command without --overwrite resumes from here'


@pytest.mark.parametrize(
    'method',
    [
        (
            *('dskd+ds', '--branches', 'mirror', '--alpha-schedule', 'zeroing', '--alpha-zero-from', '0.4'),
            '--sched-on-updates',
        ),
        pytest.param(('vid', '--opt', 'adamw', '--lr', '0.003'), marks=pytest.mark.slow),
        pytest.param(
            (
                *('byot', '--alpha-schedule', 'linear', '--branch-lr-scale', '2', '--branch-warmup-epochs', '2'),
                '--sched-on-updates',
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda method: method[0],
)
def test_stopped_with_a_teacher_or_a_schedule(tmp_path, method):
    """Projections, variances and the weight of the branches go on where they were."""
    teacher = tmp_path / 'teacher.pth'
    torch.manual_seed(0)
    torch.save(timm.create_model('cifar_resnet8', num_classes=10, in_chans=1).state_dict(), teacher)
    needs = () if method[0] == 'byot' else ('--kd-checkpoint', str(teacher))
    argv = (*PLAIN, '--recovery-interval', '4', '--method', *method, *needs)
    assert wait(start(argv, tmp_path, lambda: die_at_save(3))) == -9  # in the second epoch
    assert wait(start(argv, tmp_path)) == 0, (tmp_path / 'output.txt').read_text()[-2000:]
    assert not differences(argv, tmp_path)


def test_recovery_files_with_accumulation(run_cli, tmp_path, stop_at_step):
    stop_at_step(5)
    run_cli(*PLAIN, '--recovery-interval', '3')  # two steps make an update; 0-6 is the signal's
    assert [path.name[:12] for path in recovery_files(tmp_path / FOLDER)] == ['recovery-0-6', 'recovery-0-4']


def test_the_time_of_an_epoch_is_all_its_parts(run_cli, tmp_path, stop_at_step):
    stop_at_step(5)
    run_cli(*PLAIN)
    before = read_checkpoint(recovery_files(tmp_path / FOLDER)[0])['dkszoo']['progress']['seconds']
    assert before > 0
    run_cli(*PLAIN)
    rows = [json.loads(line) for line in (tmp_path / FOLDER / 'log.jsonl').read_text().splitlines()]
    assert rows[0]['seconds']['train'] > before
    assert read_checkpoint(tmp_path / FOLDER / 'last.pth.tar')['dkszoo']['progress']['seconds'] == 0


def test_everything_is_in_a_checkpoint(run_cli, tmp_path, stop_at_step):
    stop_at_step(9)
    run_cli(*PLAIN)
    checkpoint = read_checkpoint(recovery_files(tmp_path / FOLDER)[0])
    own = checkpoint['dkszoo']
    assert own['format'] == 1
    (process,) = own['processes']
    assert set(process['rng']) == {'python', 'numpy', 'torch'}
    assert process['sums']['samples'] == 2 * 16
    progress = own['progress']
    assert (progress['epoch'], progress['step'], progress['updates'], progress['best_epoch']) == (1, 2, 5, 0)
    assert len(progress['history']) == 1
    assert {'state_dict', 'state_dict_ema', 'task_state', 'task_state_ema', 'optimizer', 'arch'} < set(checkpoint)
    assert own['scheduler'] is not None
    # and a file that torch alone can read, without running code
    assert digest(torch.load(recovery_files(tmp_path / FOLDER)[0], weights_only=True)) == digest(checkpoint)


def test_damaged_checkpoints_are_named_and_passed_over(run_cli, tmp_path, stop_at_step):
    stop_at_step(13)
    run_cli(*PLAIN)
    newest, older = recovery_files(tmp_path / FOLDER)
    flip_a_bit(newest)
    code, _, err = run_cli(*PLAIN)
    assert code == 0, err
    assert [newest.name in line for line in err.splitlines()].count(True) == 1
    assert f'from {FOLDER}/{older.name}' in err
    assert not differences(PLAIN, tmp_path)


def test_with_all_others_damaged_the_best_is_gone_on_from(run_cli, tmp_path, stop_at_step):
    stop_at_step(9)
    run_cli(*PLAIN)
    folder = tmp_path / FOLDER
    flip_a_bit(folder / LAST)
    for path in recovery_files(folder):
        path.write_bytes(path.read_bytes()[:1000])
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)


def test_no_good_checkpoint_at_all(run_cli, tmp_path, stop_at_step):
    stop_at_step(3)
    run_cli(*PLAIN)
    for path in recovery_files(tmp_path / FOLDER):
        path.write_bytes(b'')
    code, _, err = run_cli(*PLAIN)
    assert code == 2
    assert 'no checkpoint in' in err.splitlines()[-1]
    assert '--overwrite' in err.splitlines()[-1]
    assert run_cli(*PLAIN, '--overwrite')[0] == 0
    assert outcome(tmp_path)['weights_sha256'] == reference(PLAIN)[0]['weights_sha256']


def test_a_crash_between_last_and_best(run_cli, tmp_path, monkeypatch):
    from dkszoo.engine import keeper

    with monkeypatch.context() as patch:
        patch.setattr(keeper, 'copy_checkpoint', lambda *_: (_ for _ in ()).throw(OSError('the crash')))
        code, _, err = run_cli(*PLAIN)
    assert code == 1
    assert 'the crash' in err.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / FOLDER).glob('*.pth.tar'))[0] == LAST
    code, _, err = run_cli(*PLAIN)
    assert (code, 'are lost' in err) == (0, False)
    assert not differences(PLAIN, tmp_path)


def test_a_lost_best_epoch_is_named_and_replaced(run_cli, tmp_path, stop_at_step):
    stop_at_step(9)
    run_cli(*PLAIN)
    folder = tmp_path / FOLDER
    (folder / BEST).unlink()
    code, _, err = run_cli(*PLAIN)
    assert code == 0
    assert 'the weights of the best epoch, 1, are lost' in err
    expected = reference(PLAIN)[0]
    got = outcome(tmp_path)
    assert got['weights_sha256'] == expected['weights_sha256']
    assert got['result']['best_epoch'] > 0
    assert read_checkpoint(folder / BEST)['epoch'] == got['result']['best_epoch']


def test_a_lost_best_epoch_at_the_end(run_cli, tmp_path):
    assert run_cli(*PLAIN)[0] == 0
    folder = tmp_path / FOLDER
    record = json.loads((folder / 'run.json').read_text())
    del record['result']
    (folder / 'run.json').write_text(json.dumps(record))
    checkpoint = read_checkpoint(folder / LAST)
    checkpoint['dkszoo']['progress'].update(best_epoch=0, best_metric=99.0)
    torch.save(checkpoint, folder / LAST)
    shutil.copy(folder / LAST, folder / BEST)  # the last epoch's, not the best's
    code, _, err = run_cli(*PLAIN)
    assert code == 0
    assert 'epoch 3 stands in' in err
    result = json.loads((folder / 'run.json').read_text())['result']
    assert result['best_epoch'] == 2
    assert result['best'] == result['last']


def test_records_are_mended(run_cli, tmp_path, stop_at_step):
    stop_at_step(16)
    run_cli(*PLAIN)
    folder = tmp_path / FOLDER
    with open(folder / 'log.jsonl', 'a') as file:
        file.write('{"epoch": 2, "train": {"loss": 1}}\n{"epoch": 2, "train": {}')
    (folder / 'run.json').write_text('{"argv": ')
    (folder / 'summary.csv').unlink()
    leftovers = ['.last.pth.tar.abc.tmp', '.recovery-0-2.pth.tar.x_y.tmp', '.run.json.1.tmp']
    for name in leftovers:
        (folder / name).write_bytes(b'half')
    (folder / '.out.safetensors.abc.tmp').touch()  # an export's, which may be at work
    code, _, err = run_cli(*PLAIN)
    assert code == 0
    assert err.count("run.json' is damaged") == 1
    (folder / '.out.safetensors.abc.tmp').unlink()
    assert not differences(PLAIN, tmp_path)


def test_a_finished_run_whose_record_is_damaged_is_tested_again(run_cli, tmp_path):
    assert run_cli(*PLAIN)[0] == 0
    (tmp_path / FOLDER / 'run.json').write_text('{')
    code, _, err = run_cli(*PLAIN)
    assert code == 0
    assert 'resumed after the last epoch from' in err
    assert not differences(PLAIN, tmp_path)


def test_a_killed_first_epoch_leaves_no_rows(run_cli, tmp_path, monkeypatch):
    from dkszoo.engine import keeper

    with monkeypatch.context() as patch:
        patch.setattr(keeper, 'save_checkpoint', lambda *_: (_ for _ in ()).throw(OSError('the crash')))
        assert run_cli(*PLAIN, '--recovery-interval', '1000')[0] == 1
    folder = tmp_path / FOLDER
    assert (folder / 'summary.csv').exists()
    assert not list(folder.glob('*.pth.tar'))
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)


def test_settings_files(run_cli, tmp_path, stop_at_step):
    stop_at_step(3)
    run_cli(*PLAIN)
    settings = tmp_path / FOLDER / 'args.yaml'
    text = settings.read_text()

    def refused() -> str:
        code, _, err = run_cli(*PLAIN)
        assert code == 2
        return err.splitlines()[-1]

    settings.write_text('epochs: [')
    assert "args.yaml' is damaged" in refused()
    settings.write_bytes(b'\xff\xfe')
    assert "args.yaml' is damaged" in refused()
    settings.write_text('from_the_future: 1\n' + text)
    assert "'from_the_future'" in refused()
    settings.write_text(text.replace('epochs: 3', 'epochs: 4'))
    assert '--epochs 4, not 3' in refused()
    settings.unlink()
    assert 'holds checkpoints but no args.yaml' in refused()
    # a run from before a setting existed had its default
    older = yaml.safe_load(text)
    del older['reprob'], older['in_chans']
    settings.write_text(yaml.safe_dump(older))
    code, _, err = run_cli(*PLAIN, '--reprob', '0.5')
    assert code == 2
    assert '--reprob 0.0, not 0.5' in err.splitlines()[-1]
    assert run_cli(*PLAIN)[0] == 0
    settings.write_text(text)
    assert not differences(PLAIN, tmp_path)


def test_another_machine_is_named(run_cli, tmp_path, stop_at_step):
    stop_at_step(3)
    run_cli(*PLAIN)
    path = tmp_path / FOLDER / 'run.json'
    record = json.loads(path.read_text())
    record['threads'], record['versions']['torch'] = 64, '0.4'
    path.write_text(json.dumps(record))
    code, _, err = run_cli(*PLAIN)
    assert code == 0
    assert 'thread count: 64, here 1' in err
    assert 'version of torch: 0.4, here' in err


def test_resume_from_a_file(run_cli, tmp_path, stop_at_step):
    argv = (*PLAIN, '--recovery-interval', '1000')
    stop_at_step(12)
    run_cli(*argv)
    os.rename(tmp_path / 'runs', tmp_path / 'before')
    newest = recovery_files(tmp_path / 'before/tiny')[0]
    for source in (newest, tmp_path / 'before/tiny' / LAST):
        code, _, err = run_cli(*argv, '--resume', source)
        assert code == 0, err
        assert outcome(tmp_path)['weights_sha256'] == reference(PLAIN)[0]['weights_sha256']
        shutil.rmtree(tmp_path / 'runs')
    # more epochs than before: what is done counts, the rest follows the new settings
    assert run_cli(*argv, '--resume', tmp_path / 'before/tiny' / LAST, '--epochs', '4')[0] == 0
    rates = [row['lr'] for row in outcome(tmp_path)['log.jsonl']]  # the file's first epoch is not in this folder's log
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (1, 2, 3)])
    shutil.rmtree(tmp_path / 'runs')
    other = ('--weight-decay', '0.25', '--momentum', '0.5', '--sched', 'none', '--lr', '0.003')
    assert run_cli(*argv, '--resume', newest, *other)[0] == 0
    for group in read_checkpoint(tmp_path / FOLDER / LAST)['optimizer']['param_groups']:
        assert (group['weight_decay'], group['momentum'], group['lr']) == (0.25, 0.5, 0.003)
    shutil.rmtree(tmp_path / 'runs')
    code, _, err = run_cli(*argv, '--resume', newest, '--model', 'cifar_resnet14')
    assert code == 2
    assert 'it holds a cifar_resnet8, not a cifar_resnet14' in err.splitlines()[-1]
    assert not (tmp_path / 'runs').exists()
    # another method with the same branches: a figure less, others more
    other = ('--method', 'ds', '--eval-test-every-epoch')
    assert run_cli(*argv, '--resume', tmp_path / 'before/tiny' / LAST, *other)[0] == 0
    with open(tmp_path / FOLDER / 'summary.csv', newline='') as file:
        first, *rest = csv.DictReader(file)
    assert list(first)[-1] == 'lr'
    assert (first['eval_test_top1'], float(first['train_synergy']) > 0) == ('', True)
    assert all(0 <= float(row['eval_test_top1']) <= 100 and row['train_synergy'] == '' for row in rest)
    shutil.rmtree(tmp_path / 'runs')
    # amid an update of the new settings
    code, _, err = run_cli(*argv, '--resume', newest, '--grad-accum-steps', '4')
    assert code == 2
    assert 'amid an update of --grad-accum-steps 4 (give one that divides it)' in err.splitlines()[-1]
    # an epoch that is shorter than the step the file is at
    code, _, err = run_cli(*argv, '--resume', newest, '--batch-size', '50')
    assert code == 2
    assert 'an epoch that has 2 steps here (give the --batch-size of the file)' in err.splitlines()[-1]
    # without the branches of the file
    code, _, err = run_cli(*argv, '--resume', newest, '--method', 'baseline')
    assert code == 2
    assert 'its weights cannot be loaded: ' in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith(
        ' (give the --method, --branches, --opt, --filter-bias-and-bn, --layer-decay, --branch-lr-scale and '
        '--branch-warmup-epochs of the file, or --initial-checkpoint for its weights alone)'
    )


@pytest.mark.slow
def test_resume_with_another_optimizer(run_cli, tmp_path):
    """One of the same class; a best epoch that other images chose is none."""
    assert run_cli(*PLAIN, '--epochs', '1')[0] == 0
    os.rename(tmp_path / 'runs', tmp_path / 'before')
    other = ('--opt', 'csgdw', '--val-split', '0', '--best-on', 'test')
    code, _, err = run_cli(*PLAIN, '--resume', tmp_path / 'before/tiny' / LAST, *other)
    assert code == 0
    assert 'the best epoch so far no longer counts: it was chosen with another --val-split' in err
    assert outcome(tmp_path)['result']['best_epoch'] > 0
    groups = read_checkpoint(tmp_path / FOLDER / LAST)['optimizer']['param_groups']
    assert all(group['caution'] for group in groups)
    shutil.rmtree(tmp_path / 'runs')
    adam = dict(opt='adamuon', lr=0.003, grad_accum_steps=1)
    adam = [word for key, value in adam.items() for word in (f'--{key.replace("_", "-")}', str(value))]
    assert run_cli(*PLAIN, *adam, '--epochs', '1')[0] == 0
    os.rename(tmp_path / 'runs', tmp_path / 'muon')
    assert run_cli(*PLAIN, *adam, '--opt', 'muon', '--resume', tmp_path / 'muon/tiny' / LAST, '--epochs', '2')[0] == 0
    groups = read_checkpoint(tmp_path / FOLDER / LAST)['optimizer']['param_groups']
    assert {group.get('algo') for group in groups} == {'muon'}


def test_workers_do_not_change_a_run(tmp_path):
    ends = []
    for workers in ('0', '3'):
        (tmp_path / workers).mkdir()
        argv = (*PLAIN, '--epochs', '1', '--recovery-interval', '1000', '--loader', 'timm', '--workers', workers)
        assert wait(start(argv, tmp_path / workers)) == 0
        ends.append(outcome(tmp_path / workers))
        ends[-1].pop('last'), ends[-1].pop('best')  # they name the number of workers
    assert ends[0]['weights_sha256']
    assert ends[0] == ends[1]


def test_one_run_at_a_time(run_cli, tmp_path):
    pid = start(PLAIN, tmp_path, lambda: hold(tmp_path / FOLDER))
    deadline = time.monotonic() + 300
    try:
        while not (tmp_path / 'held').exists():
            assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, 'it has ended'
            assert time.monotonic() < deadline
            time.sleep(0.05)
        code, _, err = run_cli(*PLAIN)
        assert code == 2
        assert f'is in use by process {pid} on' in err.splitlines()[-1]
    finally:
        os.kill(pid, 9)
        wait(pid)
    assert (tmp_path / FOLDER / '.lock').exists()
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)


def test_killed_with_its_result_written(run_cli, tmp_path):
    assert wait(start(PLAIN, tmp_path, die_with_the_result)) == -9
    assert (tmp_path / FOLDER / '.lock').exists()
    code, out, _ = run_cli(*PLAIN)
    assert (code, 'finished already' in out) == (0, True)
    assert not differences(PLAIN, tmp_path)


def die_with_the_result() -> None:
    from dkszoo.engine.folder import RunFolder

    write = RunFolder.write_record

    def write_and_die(self, record):
        write(self, record)
        if 'result' in record:
            os.kill(os.getpid(), 9)

    RunFolder.write_record = write_and_die


def hold(folder) -> None:
    """Stop at the first step."""
    from dkszoo.engine.step import Stepper

    def held(*_):
        (folder.parent.parent / 'held').touch()
        time.sleep(600)

    Stepper.__call__ = held


@pytest.mark.slow
def test_mixed_precision_and_other_optimizers(tmp_path):
    """What else has a state: a gradient scaler, optimizers that keep more than a momentum."""
    for i, extra in enumerate(
        (('--amp', '--amp-dtype', 'float16'), ('--opt', 'lamb'), ('--opt', 'lookahead_adamw'), ('--opt', 'adafactor'))
    ):
        argv = (*MIXED, '--workers', '0', *extra)
        cwd = tmp_path / str(i)
        cwd.mkdir()
        assert wait(start(argv, cwd, lambda: die_at_save(4))) == -9
        assert wait(start(argv, cwd)) == 0, (cwd / 'output.txt').read_text()[-2000:]
        assert not differences(argv, cwd), extra


def die_at_save(number: int) -> None:
    from dkszoo.engine import keeper

    plain, calls = keeper.save_checkpoint, []

    def save(*args):
        plain(*args)
        calls.append(None)
        if len(calls) == number:
            os.kill(os.getpid(), 9)

    keeper.save_checkpoint = save


def test_overwriting_begins_when_all_else_is_checked(run_cli, tmp_path):
    argv = (*PLAIN, '--epochs', '1')
    assert run_cli(*argv)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()}
    wrong = {'nothing.pth.tar': 'no checkpoint file', f'{FOLDER}/last.pth.tar': '--overwrite would delete'}
    wrong[str(tmp_path / FOLDER / LAST)] = '--overwrite would delete'
    for file, says in wrong.items():
        code, _, err = run_cli(*argv, '--overwrite', '--resume', file)
        assert code == 2
        assert says in err
        assert {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()} == before
    shutil.copy(tmp_path / FOLDER / 'last.pth.tar', tmp_path / 'kept.pth.tar')
    code, _, err = run_cli(*PLAIN, '--epochs', '2', '--overwrite', '--resume', 'kept.pth.tar')
    assert code == 0, err
    assert len((tmp_path / FOLDER / 'summary.csv').read_text().splitlines()) == 3
    assert yaml.safe_load((tmp_path / FOLDER / 'args.yaml').read_text())['overwrite'] is False  # it is a recipe


def test_schedules_of_the_branches_in_a_run(run_cli, tmp_path):
    ds = ('--method', 'ds', '--alpha-schedule', 'zeroing', '--alpha-zero-from', '0.4', '--branch-lr-scale', '2')
    assert run_cli(*PLAIN, *ds)[0] == 0
    with open(tmp_path / FOLDER / 'summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [float(row['train_ds']) > 0 for row in rows] == [True, True, False]
    assert float(rows[1]['lr']) == pytest.approx(2 * 0.05 * 0.75)  # the highest of the rates
