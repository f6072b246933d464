"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def pytest_configure(config):
    """Hide CUDA devices unless `-m gpu` asks for them: the other tests are the same wherever they run.

    Tests of reliability fork. Where torch.export or torch.compile comes before a process's first backward pass, that
    pass starts threads which no forked process has; so let it come first, but after the devices are hidden.
    """
    if 'gpu' not in config.getoption('markexpr').replace('not gpu', ''):
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    torch.ones(1, requires_grad=True).backward()


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(1)


@pytest.fixture
def run_cli(monkeypatch, tmp_path, capsys):
    """Run a command line in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        from dkszoo.cli.main import main

        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as error:  # --help
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def environment() -> dict:
    """The environment of a subprocess that imports this checkout, with one thread."""
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
