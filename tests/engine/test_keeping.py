"""When a run is saved, which file it goes on from, and where no run can go on."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dkszoo.engine import TrainConfig, keeper
from dkszoo.engine.checkpoint import BEST, LAST, newest_checkpoint, read_checkpoint
from dkszoo.engine.contents import Progress
from dkszoo.engine.restore import check_place

GOLDEN = Path(__file__).parents[1] / 'golden/checkpoint_format1.pth.tar'  # at step 4 of its second epoch


class Clock:
    """Stands in for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(keeper, 'time', clock)
    return clock


@pytest.fixture
def kept(clock):
    """A keeper that has saved nothing yet."""
    return keeper.Keeper(SimpleNamespace(), SimpleNamespace(path=Path('.')))


def is_due(kept, step: int, **settings) -> bool:
    kept.setup.config = TrainConfig(**settings)
    return kept.recovery_due(SimpleNamespace(step=step))


def test_about_one_recovery_file_a_minute(kept, clock):
    assert not is_due(kept, 7)
    clock.now += 59
    assert not is_due(kept, 7)
    clock.now += 2
    assert is_due(kept, 7)


def test_a_recovery_file_so_many_steps_after_the_last(kept, clock):
    clock.now += 3600
    assert [is_due(kept, step, recovery_interval=5) for step in (4, 5, 6)] == [False, True, True]
    kept.saved_step = 6
    assert [is_due(kept, step, recovery_interval=5) for step in (10, 11)] == [False, True]


def copy_at(step: int, target: Path) -> None:
    checkpoint = read_checkpoint(GOLDEN)
    checkpoint['dkszoo']['progress']['step'] = step
    torch.save(checkpoint, target)


@pytest.mark.parametrize(
    ('of_recovery', 'of_last', 'taken'),
    [(4, 0, 'recovery-1-4.pth.tar'), (0, 4, LAST), (4, 4, 'recovery-1-4.pth.tar')],
)
def test_the_file_that_is_furthest_on_is_taken(tmp_path, of_recovery, of_last, taken):
    """Of two at one place the recovery file, whatever the best epoch's is at."""
    name = f'recovery-1-{of_recovery}.pth.tar'
    for step, file in ((of_recovery, name), (of_last, LAST), (6, BEST)):
        copy_at(step, tmp_path / file)
    path, checkpoint = newest_checkpoint(tmp_path, pytest.fail)
    assert path.name == taken
    assert checkpoint['dkszoo']['progress']['step'] == 4


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path, pytest.fail) is None
    shutil.copy(GOLDEN, tmp_path / 'other.pth.tar')
    assert newest_checkpoint(tmp_path, pytest.fail) is None


@pytest.mark.parametrize(
    ('place', 'reason'),
    [
        ({'epoch': 2, 'step': 8}, 'at step 8 of an epoch that has 7 steps here'),
        ({'epoch': 3, 'step': 1}, 'at step 1 of epoch 4, beyond the end at --epochs 3'),
        ({'epoch': 4, 'step': 0, 'best_epoch': 0}, 'at step 0 of epoch 5, beyond the end at --epochs 3'),
        ({'epoch': 3, 'step': 0}, 'is of the end of a run, and has no best epoch'),
        ({'epoch': 3, 'step': 0, 'best_epoch': 0}, ''),
        ({'epoch': 2, 'step': 7}, ''),
    ],
)
def test_places_a_run_does_not_come_to(place, reason):
    setup = SimpleNamespace(sampler=SimpleNamespace(steps=7), config=TrainConfig(epochs=3))
    if not reason:
        check_place(setup, Progress(**place))
        return
    with pytest.raises(ValueError, match=reason):
        check_place(setup, Progress(**place))
