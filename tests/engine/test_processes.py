"""Two processes: the same sample stream as one, exact resume, figures that are validate's."""

import json
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.reliability.runs import FOLDER, digest
from dkszoo.data import StreamSampler
from dkszoo.engine.checkpoint import BEST, LAST, read_checkpoint
from dkszoo.engine.compiled import CompiledSteps
from dkszoo.engine.keeper import Keeper
from dkszoo.engine.trainer import Trainer
from dkszoo.engine.world import World

ROOT = Path(__file__).parents[2]
RUN = '''
"""train.py that notes every sample it is fed and, if asked to, is killed in a step; if it hangs it says where."""
import faulthandler, hashlib, os, sys
from dkszoo.engine.step import Stepper

rank, die_at = os.environ.get('RANK', '0'), int(os.environ.get('DIE_AT', 0))
plain, calls = Stepper.__call__, []

def noted(self, images, targets, step, *args):
    with open(f'samples-{rank}.txt', 'a') as file:
        for image, target in zip(images, targets):
            print(step, hashlib.sha256(image.numpy().tobytes()).hexdigest(), int(target), file=file)
    calls.append(None)
    if len(calls) == die_at:
        os.kill(os.getpid(), 9)
    return plain(self, images, targets, step, *args)

Stepper.__call__ = noted
if __name__ == '__main__':
    faulthandler.dump_traceback_later(240)
    from dkszoo.cli.main import main
    sys.exit(main(['train', *sys.argv[1:]]))
'''
ARGV = (
    '--model cifar_resnet8 --model-kwargs channels=[2,4,4] stem_chs=2 --device cpu --experiment tiny --epochs 2 '
    '--train-num-samples 100 --lr 0.05 --recovery-interval 2 --model-ema --model-ema-decay 0.8 --drop 0.1 --loader timm'
).split()


def test_the_parts_of_two_processes_make_the_batch_of_one():
    one = StreamSampler(103, 16, seed=3)
    two = [StreamSampler(103, 8, seed=3, rank=rank, world_size=2) for rank in range(2)]
    assert one.steps == two[0].steps == 7
    for epoch in range(3):
        for step in range(one.steps):
            both = two[0].indices(epoch, step) + two[1].indices(epoch, step)
            expected = one.indices(epoch, step)
            assert both == expected[: len(both)]  # of a last batch of odd size one sample is left out
            assert len(both) == len(expected) // 2 * 2


def test_no_process_waits_for_the_test_of_the_first(run_cli, monkeypatch):
    """It may take longer than torch lets the others wait."""
    tested, test, wait = [], Trainer.test, World.wait
    monkeypatch.setattr(Trainer, 'test', lambda trainer: tested.append(True) or test(trainer))

    def waiting(world: World) -> None:
        assert not tested
        wait(world)

    monkeypatch.setattr(World, 'wait', waiting)
    code, _, err = run_cli('train', *ARGV, '--epochs', '1', '--batch-size', '16')
    assert code == 0, err
    assert tested


def test_nobody_ends_while_the_first_saves(run_cli, monkeypatch, stop_at_step):
    """torchrun would stop the first one, too."""
    order, save, wait = [], Keeper.save_recovery, World.wait
    monkeypatch.setattr(Keeper, 'save_recovery', lambda *args: save(*args) or order.append('saved'))
    monkeypatch.setattr(World, 'wait', lambda world: order.append('waited') or wait(world))
    stop_at_step(3)
    assert run_cli('train', *ARGV, '--batch-size', '16', '--recovery-interval', '100')[0] == 143
    assert order[-2:] == ['saved', 'waited']


def test_several_processes_do_not_go_on_without_the_compiler():
    def step() -> dict:
        raise ZeroDivisionError

    steps = CompiledSteps(True, torch.nn.Linear(1, 1), torch.device('cpu'), alone=False)
    with pytest.raises(RuntimeError, match='fails in one of several processes'):
        steps(step, torch.Size([1]))


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
def test_a_loading_process_that_imports_the_script_does_not_run_it(script):
    """Where Python does not fork them, as on macOS, and from 3.14 on everywhere, they import the main file again."""
    names = runpy.run_path(str(ROOT / script), run_name='__mp_main__')
    assert 'main' in names


@pytest.mark.slow
@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_loading_processes_need_not_be_forked(tmp_path, environment, method):
    """The images are those of a run without such processes."""
    start = f'import multiprocessing\nmultiprocessing.set_start_method({method!r})\n'
    (tmp_path / 'sitecustomize.py').write_text(start)
    environment['PYTHONPATH'] = os.pathsep.join([str(tmp_path), environment['PYTHONPATH']])
    for workers in '01':
        cwd = tmp_path / workers
        cwd.mkdir()
        argv = [sys.executable, ROOT / 'train.py', *ARGV, '--epochs', '1', '--workers', workers]
        done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    none, one = (read_checkpoint(tmp_path / workers / FOLDER / LAST) for workers in '01')
    assert digest(none['state_dict']) == digest(one['state_dict'])


def train(cwd, environment, processes: int, batch_size: int, die_at: int = 0) -> subprocess.CompletedProcess:
    (cwd / 'run.py').write_text(RUN)
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'] if processes == 2 else []
    command = [sys.executable, *launcher, 'run.py', *ARGV, '--batch-size', str(batch_size), '--workers', '1']
    env = {**environment, 'DIE_AT': str(die_at)}
    try:
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f'it did not end: {error.stderr}')


def samples(cwd) -> Counter:
    """(Step, image, class) of all that was trained on, by all processes."""
    return Counter(line for path in cwd.glob('samples-*.txt') for line in path.read_text().splitlines())


@pytest.mark.slow
def test_two_processes(tmp_path, environment, run_cli):
    for name in ('one', 'two', 'killed'):
        (tmp_path / name).mkdir()
    one, two, killed = tmp_path / 'one', tmp_path / 'two', tmp_path / 'killed'
    done = train(one, environment, 1, 16)
    assert done.returncode == 0, done.stderr
    done = train(two, environment, 2, 8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('test accuracy, last epoch') == 1
    assert sum(samples(one).values()) == 2 * 100
    assert samples(one) == samples(two)

    # killed in the second epoch, then exactly the same end
    assert train(killed, environment, 2, 8, die_at=11).returncode != 0
    done = train(killed, environment, 2, 8)
    assert done.returncode == 0, done.stderr
    assert 'resumed at epoch 2, step ' in done.stderr
    for file in (LAST, BEST):
        assert digest(read_checkpoint(two / FOLDER / file)) == digest(read_checkpoint(killed / FOLDER / file))
    assert (two / FOLDER / 'summary.csv').read_bytes() == (killed / FOLDER / 'summary.csv').read_bytes()

    # one process gives the figures that two have logged
    result = json.loads((two / FOLDER / 'run.json').read_text())['result']
    for name, file in (('last', LAST), ('best', BEST)):
        code, out, err = run_cli('validate', '--checkpoint', two / FOLDER / file, '--device', 'cpu', '--per-branch')
        assert code == 0, err
        figures = json.loads(out.splitlines()[-1])
        assert {key: figures[key] for key in result[name]} == result[name]

    # a run of two does not go on as one
    (two / FOLDER / 'run.json').unlink()
    done = train(two, environment, 1, 8)
    assert done.returncode == 2
    assert 'made by 2 processes, not 1' in done.stderr.splitlines()[-1]
