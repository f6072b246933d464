"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / 'examples'


def test_own_loop(tmp_path, environment):
    command = [sys.executable, EXAMPLES / 'own_loop.py', '--epochs', '2', '--output', 'out']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *epochs, last = done.stdout.splitlines()
    assert [line.partition(':')[0] for line in epochs] == ['epoch 1', 'epoch 2']
    assert last.endswith('77,754 parameters, no branches')
    assert {'last.pth.tar', 'model_best.pth.tar'} <= {path.name for path in (tmp_path / 'out').iterdir()}
