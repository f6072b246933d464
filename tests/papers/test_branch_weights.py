"""benchmarks/branch_weights.py: the distribution of DSKD's weights over the images of a run."""

import pytest
import torch

from benchmarks.branch_weights import draw, read_weights, report


def test_weights_of_a_run(run_cli, tmp_path):
    argv = '--model cifar_resnet8 --epochs 1 --train-num-samples 40 --batch-size 20 --device cpu --workers 0'.split()
    assert run_cli('train', *argv, '--method', 'baseline', '--experiment', 'teacher')[0] == 0
    kd = ('--kd-model-name', 'cifar_resnet8', '--kd-checkpoint', 'runs/teacher/last.pth.tar')
    assert run_cli('train', *argv, '--method', 'dskd', '--experiment', 'student', *kd)[0] == 0
    weights = read_weights(tmp_path / 'runs/student')
    assert weights.shape == (2, 40)
    torch.testing.assert_close(weights.sum(0), torch.ones(40))
    assert torch.equal(weights, read_weights(tmp_path / 'runs/student'))
    assert weights.std(1).min() > 1e-3
    first, second = (line.split('|') for line in report(weights).splitlines()[2:])
    mirrored = [1 - float(value) for value in reversed(first[3:8])]
    assert [float(value) for value in second[3:8]] == pytest.approx(mirrored, abs=0.0015)
    draw(weights, tmp_path / 'weights.png')
    assert (tmp_path / 'weights.png').read_bytes().startswith(b'\x89PNG')
