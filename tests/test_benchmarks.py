"""The benchmarks can be imported: what they take from the package is there."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = ['.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in sorted(ROOT.glob('benchmarks/**/*.py'))]


@pytest.mark.parametrize('name', MODULES)
def test_imports(name):
    importlib.import_module(name)
