"""The examples run as they stand."""

import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / 'examples'


def test_own_loop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['own_loop.py', '--epochs', '1', '--output', 'out'])
    runpy.run_path(str(EXAMPLES / 'own_loop.py'), run_name='__main__')
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith('epoch 1: ')
    assert last.endswith('77,754 parameters, no branches')
    assert {'last.pth.tar', 'model_best.pth.tar'} <= {path.name for path in (tmp_path / 'out').iterdir()}
