"""What a checkpoint holds is put back where it was."""

import copy
import dataclasses

import pytest
import torch
from setups import made

from dkszoo.engine.checkpoint import capture
from dkszoo.engine.contents import Progress
from dkszoo.engine.restore import restore
from dkszoo.engine.world import World


@pytest.mark.parametrize(('saved', 'scale'), [(True, 8.0), (False, 65536.0)])
def test_the_loss_scale(saved, scale):
    """Where there is none, of a run without --amp, it begins anew."""
    before, after = made(amp=saved), made(amp=True)
    if saved:
        before.scaler.load_state_dict({**before.scaler.state_dict(), 'scale': scale})
    restore(after, capture(before, Progress()))
    assert after.scaler.state_dict()['scale'] == scale


def test_each_process_takes_its_own():
    setup = made()
    checkpoint = capture(setup, Progress(sums={'loss': 1.0}))
    torch.rand(1)
    second = capture(setup, Progress(sums={'loss': 2.0}))['dkszoo']['processes'][0]
    expected = torch.rand(3)
    checkpoint['dkszoo']['processes'].append(copy.deepcopy(second))
    two = dataclasses.replace(setup, world=World(torch.device('cpu'), 1, 2))
    assert restore(two, checkpoint).sums == {'loss': 2.0}
    assert torch.equal(torch.rand(3), expected)
