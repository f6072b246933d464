"""Golden losses: the numbers every method has given so far."""

import json

import pytest
from golden import GOLDEN, STEPS, golden_losses
from task_zoo import SETTINGS

# Other CPUs sum in another order; over five steps the difference grows to some 1e-5.
TOLERANCE = {'rel': 1e-3, 'abs': 1e-5}


@pytest.mark.parametrize('method', SETTINGS)
def test_losses_are_those_of_the_file(method):
    recorded = json.loads((GOLDEN / f'{method}.json').read_text())
    losses = golden_losses(method)
    assert len(recorded) == STEPS
    for got, expected in zip(losses, recorded, strict=True):
        assert got == pytest.approx(expected, **TOLERANCE)


def test_a_file_for_every_method():
    assert {path.stem for path in GOLDEN.glob('*.json')} == set(SETTINGS)
