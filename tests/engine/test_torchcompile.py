"""--torchcompile: used where it works; where it fails the run says why and goes on as if it had not been asked for."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks.reliability.runs import FOLDER, PLAIN, digest, finish, outcome
from dkszoo import DeepSupervisionTask
from dkszoo.engine.checkpoint import LAST, read_checkpoint
from dkszoo.engine.compiled import TRIALS, CompiledSteps
from dkszoo.engine.finite import NonFinite
from dkszoo.engine.snapshot import Snapshot
from dkszoo.engine.step import Stepper

FAILS = 'failed, continuing without it: '
SHORT = (*PLAIN, '--epochs', '2', '--recovery-interval', '1000')


# -- what is called first in a process that trains ---------------------------------------------------------------------


def refuse(*_):
    raise NotImplementedError('this machine cannot\n  compile\n\nLong advice')


def refuse_backward(graph, inputs):
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=refuse)(graph, inputs)


def refuse_from(number: int, graph, inputs):
    """Run graphs as they are, but for the one with this number and all after it; notes the kind of each in a file."""
    with open('graphs.txt', 'a') as file:
        file.write('all sizes\n' if any(isinstance(value, torch.SymInt) for value in inputs) else 'one size\n')
    return graph.forward if len(open('graphs.txt').readlines()) < number else refuse()


def use(backend) -> None:
    """Compile with this function instead of inductor."""
    DeepSupervisionTask.compile = functools.partialmethod(DeepSupervisionTask.compile, backend=backend)


def break_compiler() -> None:
    from torch._inductor import config

    with open('failing-compiler', 'w') as file:
        file.write('#!/bin/sh\nexit 1\n')
    os.chmod('failing-compiler', 0o755)
    config.cpp.cxx, config.force_disable_caches, config.compile_threads = (os.path.abspath(file.name),), True, 1


def fail_in_backward() -> None:
    def fail(*_):
        raise ZeroDivisionError('not the compiler')

    Stepper.backward = fail


def stop_at_step(number: int) -> None:
    plain, calls = Stepper.check_finite, []

    def stop(self, result, step):
        calls.append(step)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, result, step)

    Stepper.check_finite = stop


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, environment):
    """`train(first, *argv)`: a run with --torchcompile in a process that does `first`; as `run_cli`.

    A process of its own, started anew: inductor starts threads, which do not go together with forks.
    """
    path = os.pathsep.join((environment['PYTHONPATH'], str(Path(__file__).parent)))

    def run(first: str, *argv: str) -> tuple[int, str, str]:
        program = f'import sys; from test_torchcompile import *; {first}; from dkszoo.cli.main import main; '
        command = [sys.executable, '-c', f'{program}sys.exit(main(sys.argv[1:]))', *argv, '--torchcompile']
        env = {**environment, 'PYTHONPATH': path}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def train_here(run_cli, monkeypatch):
    """`train_here(backend, *argv)`: a run with --torchcompile in this process, compiled with this function."""

    def run(backend, *argv: str) -> tuple[int, str, str]:
        torch._dynamo.reset()
        compiled = functools.partialmethod(DeepSupervisionTask.compile, backend=backend)
        monkeypatch.setattr(DeepSupervisionTask, 'compile', compiled)
        return run_cli(*argv, '--torchcompile')

    return run


def state(cwd) -> str:
    """All that evolves in a run, as its last checkpoint has it."""
    checkpoint = read_checkpoint(cwd / FOLDER / LAST)
    del checkpoint['args']
    return digest(checkpoint)


@functools.cache
def without(argv: tuple[str, ...]) -> tuple[dict, str]:
    """What a run leaves that is not compiled."""
    with tempfile.TemporaryDirectory() as cwd:
        finish(argv, Path(cwd))
        return outcome(Path(cwd)), state(Path(cwd))


def assert_as_without(cwd, argv: tuple[str, ...]) -> None:
    (expected, expected_state), got = without(argv), outcome(cwd)
    assert {part for part in expected if got[part] != expected[part]} == {'last', 'best'}  # which hold the settings
    assert state(cwd) == expected_state


def assert_went_on(done: tuple[int, str, str], reason: str) -> None:
    code, _, err = done
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if '--torchcompile' in line]
    assert FAILS in line
    assert reason in line
    assert 'Long advice' not in err


def test_goes_on_without(train_here, tmp_path):
    """The forward pass has drawn dropout and moved the running statistics by then."""
    assert_went_on(train_here(refuse_backward, *SHORT), 'NotImplementedError: this machine cannot compile')
    assert_as_without(tmp_path, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('first', 'options', 'reason'),
    [
        # the last batch, smaller, in the middle of an accumulation: the gradients of the steps before it are kept
        ('use(functools.partial(refuse_from, 2))', ('--grad-accum-steps', '7'), 'this machine cannot compile'),
        ('break_compiler()', (), 'InvalidCxxCompiler'),
    ],
    ids=['last batch', 'no compiler'],
)
def test_goes_on_without_in_a_process_of_its_own(train, tmp_path, first, options, reason):
    argv = (*PLAIN, *options)
    assert_went_on(train(first, *argv), reason)
    assert_as_without(tmp_path, argv)


def test_not_supported_here(run_cli, tmp_path, monkeypatch):
    def unsupported(*_, **__):
        raise RuntimeError('torch.compile is not supported here')

    monkeypatch.setattr(torch, 'compile', unsupported)
    code, _, err = run_cli(*SHORT, '--torchcompile')
    assert code == 0, err
    assert err.count(FAILS + 'RuntimeError: torch.compile is not supported here') == 1
    assert_as_without(tmp_path, SHORT)


@pytest.mark.slow
def test_an_error_of_the_step_itself_ends_the_run(train):
    code, _, err = train('use(functools.partial(refuse_from, 99)); fail_in_backward()', *PLAIN)
    assert code != 0
    assert 'ZeroDivisionError: not the compiler' in err.splitlines()[-1]


@pytest.mark.parametrize(('error', 'calls'), [(NonFinite(0, ['ce']), 1), (ZeroDivisionError(), 2)])
def test_an_error_of_the_step_itself_is_raised(error, calls):
    """A loss that is not finite is known to be no fault of the compiler; all else is tried again without it."""

    def step():
        called.append(None)
        raise error

    called, steps = [], CompiledSteps(True, torch.nn.Linear(1, 1), torch.device('cpu'))
    with pytest.raises(type(error)):
        steps(step, torch.Size([1]))
    assert (len(called), steps.active) == (calls, calls == 1)


def test_images_of_a_new_shape_are_tried_anew():
    """The graph of an epoch's last, smaller batch is compiled after many whole ones."""
    steps, called = CompiledSteps(True, torch.nn.Linear(1, 1), torch.device('cpu')), []
    for _ in range(TRIALS):
        steps(dict, torch.Size([2]))

    def fails_once() -> dict:
        called.append(None)
        return {} if len(called) > 1 else refuse()

    assert steps(fails_once, torch.Size([1])) == {}
    assert (len(called), steps.active) == (2, False)


def test_where_it_works(train_here, tmp_path, run_cli):
    """One graph for the whole batches and one for the last, however often the network is evaluated in between."""
    code, _, err = train_here(functools.partial(refuse_from, 99), *SHORT, '--eval-test-every-epoch')
    assert code == 0, err
    assert FAILS not in err
    assert (tmp_path / 'graphs.txt').read_text().splitlines() == ['one size', 'one size']
    assert outcome(tmp_path)['weights_sha256'] == without(SHORT)[0]['weights_sha256']  # graphs were run as they are
    result = json.loads((tmp_path / FOLDER / 'run.json').read_text())['result']
    code, out, err = run_cli('validate', '--checkpoint', f'{FOLDER}/last.pth.tar', '--device', 'cpu', '--per-branch')
    assert code == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert {key: figures[key] for key in result['last']} == result['last']


@pytest.mark.slow
def test_bench_says_whether_it_was_used(train):
    small = ('cifar_resnet8', '--method', 'dks', '--steps', '2', '-b', '4', '--validation-batch-size', '4')
    code, out, err = train('use(refuse)', 'bench', *small, '--device', 'cpu')
    assert code == 0, err
    assert FAILS in err
    result = json.loads(out.splitlines()[-1])
    assert result['torchcompile'] is False
    assert 'backbone' in result['parts_ms']  # as without: a graph's parts cannot be told apart


@pytest.mark.slow
def test_a_stopped_run_goes_on(train, tmp_path):
    """It is tried again, and may fail again."""
    code, _, err = train('use(refuse); stop_at_step(9)', *PLAIN)
    assert code == 143
    assert FAILS in err
    code, _, err = train('use(refuse)', *PLAIN)
    assert code == 0, err
    assert FAILS in err
    assert_as_without(tmp_path, PLAIN)


def test_gradients_of_the_steps_before_are_kept_apart():
    """A backward pass that fails half-way has added to them."""
    net = torch.nn.Linear(1, 1)
    net(torch.ones(1, 1)).sum().backward()
    before = Snapshot(net, torch.device('cpu'))
    before.take()
    net(torch.ones(1, 1)).sum().backward()
    before.put_back()
    assert net.weight.grad.item() == 1.0
