"""--torchcompile: used where it works; where it fails the run says why and goes on as if it had not been asked for."""

import functools
import importlib
import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks.reliability.runs import FOLDER, PLAIN, differences, digest, finish, outcome, reference, start, wait
from dkszoo import DeepSupervisionTask
from dkszoo.engine.checkpoint import LAST, read_checkpoint
from dkszoo.engine.step import Stepper

FAILS = 'fails, going on without it: '


@pytest.fixture(scope='module', autouse=True)
def _imports():
    """What the forked processes need; nothing is compiled in this one, after which it could not be forked."""
    importlib.import_module('torch._inductor.compile_fx')


def refuse(*_):
    raise NotImplementedError('this machine cannot\n  compile\n\nLong advice')


def refuse_backward(graph, inputs):
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=refuse)(graph, inputs)


def refuse_from(number: int, graph, _):
    """Run graphs as they are, but for the one with this number and all after it; notes each in a file."""
    with open('graphs.txt', 'a') as file:
        file.write('graph\n')
    return graph.forward if len(open('graphs.txt').readlines()) < number else refuse()


def use(backend) -> None:
    """Compile with this function instead of inductor."""
    DeepSupervisionTask.compile = functools.partialmethod(DeepSupervisionTask.compile, backend=backend)


def compile_nothing() -> None:
    def unsupported(*_, **__):
        raise RuntimeError('torch.compile is not supported here')

    torch.compile = unsupported


def break_compiler() -> None:
    from torch._inductor import config

    with open('failing-compiler', 'w') as file:
        file.write('#!/bin/sh\nexit 1\n')
    os.chmod('failing-compiler', 0o755)
    config.cpp.cxx, config.force_disable_caches, config.compile_threads = (os.path.abspath(file.name),), True, 1


def train(cwd, before, *argv: str) -> tuple[int, str]:
    """A run with --torchcompile in a process in which `before` is called first; its exit code and what it said."""
    code = wait(start((*argv, '--torchcompile'), cwd, before))
    return code, (cwd / 'output.txt').read_text()


def state(cwd) -> str:
    """All that evolves in a run, as its last checkpoint has it."""
    checkpoint = read_checkpoint(cwd / FOLDER / LAST)
    del checkpoint['args']
    return digest(checkpoint)


@functools.cache
def state_without(argv: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory() as cwd:
        finish(argv, Path(cwd))
        return state(Path(cwd))


def assert_as_without(cwd, argv: tuple[str, ...]) -> None:
    differing = differences(argv, cwd)
    assert set(differing) == {'last', 'best'}  # which hold the settings
    assert state(cwd) == state_without(argv)


@pytest.mark.parametrize(
    ('before', 'options', 'reason'),
    [
        # the forward pass has drawn dropout and moved the running statistics by then
        (functools.partial(use, refuse_backward), (), 'NotImplementedError: this machine cannot compile'),
        # the last batch, smaller, in the middle of an accumulation: the gradients of the steps before it are kept
        (functools.partial(use, functools.partial(refuse_from, 2)), ('--grad-accum-steps', '7'), 'this machine cannot'),
        (break_compiler, (), 'InvalidCxxCompiler'),
        (compile_nothing, (), 'RuntimeError: torch.compile is not supported here'),
    ],
    ids=['backward', 'last batch', 'no compiler', 'not supported'],
)
def test_goes_on_without(tmp_path, before, options, reason):
    argv = (*PLAIN, *options)
    code, output = train(tmp_path, before, *argv)
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if '--torchcompile' in line]
    assert FAILS in line
    assert reason in line
    assert 'Long advice' not in output
    assert_as_without(tmp_path, argv)


def test_an_error_of_the_step_itself_is_raised(tmp_path):
    def before():
        def fail(*_):
            raise ZeroDivisionError('not the compiler')

        use(functools.partial(refuse_from, 99))
        Stepper.backward = fail

    code, output = train(tmp_path, before, *PLAIN)
    assert code != 0
    assert output.splitlines()[-1] == 'ZeroDivisionError: not the compiler'


def test_where_it_works(tmp_path, run_cli):
    """One graph for the whole batches and one for the last, however often the network is evaluated in between."""
    before = functools.partial(use, functools.partial(refuse_from, 99))
    code, output = train(tmp_path, before, *PLAIN, '--eval-test-every-epoch')
    assert code == 0, output
    assert FAILS not in output
    assert len((tmp_path / 'graphs.txt').read_text().splitlines()) == 2
    assert outcome(tmp_path)['weights_sha256'] == reference(PLAIN)[0]['weights_sha256']  # graphs were run as they are
    result = json.loads((tmp_path / FOLDER / 'run.json').read_text())['result']
    code, out, err = run_cli('validate', '--checkpoint', f'{FOLDER}/last.pth.tar', '--device', 'cpu', '--per-branch')
    assert code == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert {key: figures[key] for key in result['last']} == result['last']


def test_a_stopped_run_goes_on(tmp_path):
    """It is tried again, and may fail again."""

    def before():
        use(refuse)
        plain, calls = Stepper.check_finite, []

        def stop(self, result, step):
            calls.append(step)
            if len(calls) == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(self, result, step)

        Stepper.check_finite = stop

    assert train(tmp_path, before, *PLAIN)[0] == 143
    code, output = train(tmp_path, functools.partial(use, refuse), *PLAIN)
    assert code == 0, output
    assert output.count(FAILS) == 2
    assert_as_without(tmp_path, PLAIN)
