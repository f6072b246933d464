"""Training on a CUDA device: run with `pytest -m gpu` where there is one."""

import csv
import json
from pathlib import Path

import pytest
import torch

from dkszoo.data import MemoryLoader

pytestmark = pytest.mark.gpu

SMALL = ('train', '--model', 'cifar_resnet8', '--epochs', '3', '--train-num-samples', '600', '-b', '32', '--lr', '0.01')
NAMED = (*SMALL, '--device', 'cuda', '--experiment', 'run', '--overwrite')


def losses_of(folder: Path) -> list[float]:
    """The training losses of a run's epochs."""
    with open(folder / 'summary.csv', newline='') as file:
        return [float(row['train_loss']) for row in csv.DictReader(file)]


@pytest.fixture
def train(run_cli, tmp_path):
    """`train(*argv)`: run.json of a finished run, and the training losses of its epochs."""

    def run(*argv: str) -> tuple[dict, list[float]]:
        code, _, err = run_cli(*NAMED, *argv)
        assert code == 0, err
        assert 'continuing without it' not in err, err
        folder = tmp_path / 'runs/run'
        return json.loads((folder / 'run.json').read_text()), losses_of(folder)

    return run


@pytest.fixture
def deterministic(monkeypatch):
    for name in ('deterministic', 'benchmark'):  # as it was afterwards
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    return '--deterministic'


@pytest.fixture(scope='module')
def on_cpu(tmp_path_factory):
    """The training losses of the same run on the CPU."""
    from dkszoo.cli.main import main

    folder = tmp_path_factory.mktemp('cpu')
    assert main([*SMALL, '--device', 'cpu', '--output', str(folder), '--experiment', 'run']) == 0
    return losses_of(folder / 'run')


@pytest.mark.parametrize(
    ('argv', 'tolerance'),
    [
        ((), 0.02),
        (('--amp',), 0.04),
        (('--amp', '--amp-dtype', 'bfloat16', '--channels-last'), 0.08),
        (('--torchcompile',), 0.02),
        (('--torchcompile', '--torchcompile-mode', 'reduce-overhead', '--channels-last'), 0.02),
        (('--torchcompile', '--torchcompile-mode', 'reduce-overhead', '--amp', '--amp-dtype', 'bfloat16'), 0.08),
        (('--torchcompile', '--torchcompile-mode', 'reduce-overhead', '--amp', '--skip-nonfinite', '1'), 0.04),
    ],
    ids=['plain', 'float16', 'bfloat16', 'compiled', 'graphs', 'graphs bfloat16', 'graphs float16'],
)
def test_learns_as_on_the_cpu(train, on_cpu, argv, tolerance):
    record, losses = train(*argv)
    assert losses == pytest.approx(on_cpu, rel=tolerance)
    assert record['device'] == torch.cuda.get_device_name()


@pytest.mark.parametrize('argv', [(), ('--torchcompile', '--torchcompile-mode', 'reduce-overhead')], ids=['', 'graphs'])
def test_methods_with_teachers(run_cli, train, tmp_path, argv):
    code, _, err = run_cli(
        *SMALL, '--method', 'baseline', '--epochs', '1', '--device', 'cuda', '--export', 't.safetensors'
    )
    assert code == 0, err
    teacher = ('--kd-model-name', 'cifar_resnet8', '--kd-checkpoint', 't.safetensors')
    for method in ('dskd', 'vid+ds', 'at+kd'):
        losses = train('--method', method, *teacher, *argv)[1]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    'argv',
    [
        ('--grad-accum-steps', '2', '--clip-grad', '1'),
        ('--model-ema', '--model-ema-decay', '0.9', '--mixup', '0.2', '--cutmix', '1'),
        ('--loader', 'timm', '--reprob', '0.3', '--cutout', '4'),
        ('--method', 'byot', '--grad-checkpointing', '--opt', 'adamw', '--lr', '0.003'),
        ('--synergy-eps', '1e-8', '--alpha-schedule', 'linear'),
    ],
)
def test_options(train, argv):
    losses = train(*argv)[1]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize('argv', [(), ('--amp', '--model-ema', '--drop', '0.1')], ids=['', 'float16'])
def test_a_stopped_run_ends_as_an_unbroken_one(run_cli, train, tmp_path, stop_at_step, deterministic, argv):
    argv = (*argv, deterministic)
    unbroken = train(*argv)[0]
    assert train(*argv)[0]['weights_sha256'] == unbroken['weights_sha256']  # or the rest says nothing
    stop_at_step(30)
    code, _, err = run_cli(*NAMED, *argv)
    assert code == 143, err
    again = [word for word in NAMED if word != '--overwrite']
    code, _, err = run_cli(*again, *argv)
    assert code == 0, err
    ended = json.loads((tmp_path / 'runs/run/run.json').read_text())
    assert ended['weights_sha256'] == unbroken['weights_sha256']


def test_validate_gives_the_runs_numbers(run_cli, train, deterministic):
    record, _ = train(deterministic)
    code, out, err = run_cli('validate', '--checkpoint', 'runs/run/last.pth.tar', '--device', 'cuda', '--per-branch')
    assert code == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert {key: figures[key] for key in record['result']['last']} == pytest.approx(record['result']['last'])


def test_a_broken_loss_ends_the_run(run_cli):
    code, _, err = run_cli(*NAMED, '--lr', '1e6')
    assert code == 1, err
    assert 'is not finite for samples' in err


def test_nothing_is_waited_for_in_a_step(run_cli, monkeypatch):
    """The device is read at the lines of the log, and at the end of an epoch: nowhere in its batches and steps."""
    from dkszoo.engine.step import Stepper

    plain_step, plain_batches = Stepper.__call__, MemoryLoader.__iter__

    def strictly(work):
        torch.cuda.set_sync_debug_mode('error')
        try:
            return work()
        finally:
            torch.cuda.set_sync_debug_mode('default')

    def step(self, images, targets, number, *rest):
        work = lambda: plain_step(self, images, targets, number, *rest)  # noqa: E731
        return strictly(work) if number else work()  # the first may choose algorithms

    def batches(self):
        iterator = plain_batches(self)
        yield next(iterator)
        while (batch := strictly(lambda: next(iterator, None))) is not None:
            yield batch

    monkeypatch.setattr(Stepper, '__call__', step)
    monkeypatch.setattr(MemoryLoader, '__iter__', batches)
    code, _, err = run_cli(*NAMED, '--log-interval', '1000', '--model-ema')
    assert code == 0, err


def test_bench(run_cli):
    argv = ('bench', 'cifar_resnet8', '--method', 'dks', '--steps', '4', '-b', '64', '--device', 'cuda')
    for more, mode in (((), False), (('--torchcompile', '--torchcompile-mode', 'reduce-overhead'), 'reduce-overhead')):
        code, out, err = run_cli(*argv, *more)
        assert code == 0, err
        result = json.loads(out.splitlines()[-1])
        assert result['torchcompile'] == mode
        assert result['device'] == torch.cuda.get_device_name()
        assert 1 < result['peak_memory_mib'] < 8000
