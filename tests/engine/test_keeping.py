"""When a run is saved, which file it goes on from, and where no run can go on."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dkszoo.engine import TrainConfig, keeper
from dkszoo.engine.checkpoint import BEST, LAST, newest_checkpoint, read_checkpoint, reason, recovery_files
from dkszoo.engine.contents import Progress
from dkszoo.engine.folder import RECORDS, RunFolder
from dkszoo.engine.restore import check_place, restore

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
    setup = SimpleNamespace(world=SimpleNamespace(is_main=True))
    return keeper.Keeper(setup, SimpleNamespace(path=Path('.'), write_summary=lambda _: None))


@pytest.fixture
def saves(kept, clock, monkeypatch):
    """`saves(seconds)`: saving takes that long and writes nothing."""

    def take(seconds: float) -> None:
        monkeypatch.setattr(keeper, 'capture', lambda *_: {})
        monkeypatch.setattr(keeper, 'save_checkpoint', lambda *_: setattr(clock, 'now', clock.now + seconds))
        monkeypatch.setattr(kept, 'check_sound', lambda _: None)

    return take


def is_due(kept, step: int, **settings) -> bool:
    kept.setup.config = TrainConfig(**settings)
    return kept.recovery_due(SimpleNamespace(step=step))


def test_about_one_recovery_file_a_minute(kept, clock):
    assert not is_due(kept, 7)
    clock.now += 59
    assert not is_due(kept, 7)
    clock.now += 2
    assert is_due(kept, 7)
    kept.setup.world.is_main = False
    assert not is_due(kept, 7)  # the first process decides


@pytest.mark.parametrize(('seconds', 'pause'), [(2, 60), (10, 200)])
def test_slow_saves_are_farther_apart(kept, clock, saves, seconds, pause):
    saves(seconds)
    kept.save_recovery(Progress(step=4))
    clock.now += pause - 1
    assert not is_due(kept, 5)
    clock.now += 2
    assert is_due(kept, 5)


def test_a_recovery_file_so_many_steps_after_the_last(kept, clock):
    clock.now += 3600
    assert [is_due(kept, step, recovery_interval=5) for step in (4, 5, 6)] == [False, True, True]
    kept.saved_step = 6
    assert [is_due(kept, step, recovery_interval=5) for step in (10, 11)] == [False, True]


def test_after_a_save_and_on_going_on_it_is_counted_from_there(kept, clock, saves, monkeypatch):
    kept.setup.config = TrainConfig()
    saves(0)
    clock.now += 61
    kept.save_recovery(Progress(step=4))
    assert not is_due(kept, 5)
    assert [is_due(kept, step, recovery_interval=5) for step in (8, 9)] == [False, True]
    clock.now += 61
    kept.save_epoch(Progress(epoch=1), 50.0, False)
    assert not is_due(kept, 1)
    assert [is_due(kept, step, recovery_interval=5) for step in (4, 5)] == [False, True]
    monkeypatch.setattr(keeper, 'newest_checkpoint', lambda *_: (Path('recovery-1-2.pth.tar'), {'args': {}}))
    monkeypatch.setattr(keeper, 'restore', lambda *_: Progress(epoch=1, step=2))
    kept.resume()
    assert [is_due(kept, step, recovery_interval=5) for step in (6, 7)] == [False, True]


@pytest.mark.parametrize(
    ('source', 'stay'),
    [('recovery-0-4.pth.tar', ['recovery-0-4.pth.tar', 'recovery-0-2.pth.tar']), (LAST, [])],
)
def test_files_that_were_passed_over_go(kept, tmp_path, source, stay):
    for step in (2, 4, 6):
        (tmp_path / f'recovery-0-{step}.pth.tar').touch()
    nothing = lambda _: None  # noqa: E731
    kept.folder = SimpleNamespace(path=tmp_path, write_summary=nothing, trim_log=nothing)
    kept.last, kept.source = tmp_path / LAST, tmp_path / source
    kept.settle(Progress(step=4))
    assert [path.name for path in recovery_files(tmp_path)] == stay


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


def test_a_disk_that_does_not_answer_takes_no_file_away(tmp_path, monkeypatch):
    """An older file would be gone on from, and the newest one removed."""
    for step in (2, 4):
        copy_at(step, tmp_path / f'recovery-1-{step}.pth.tar')
    monkeypatch.setattr('zipfile.ZipFile.testzip', lambda _: (_ for _ in ()).throw(OSError(5, 'Input/output error')))
    with pytest.raises(OSError, match='Input/output error'):
        newest_checkpoint(tmp_path, pytest.fail)


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
        ({'epoch': 3, 'step': 0}, 'is at the end of a run, but has no best epoch'),
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


def test_the_last_update_of_an_epoch_may_be_of_fewer_steps():
    setup = SimpleNamespace(sampler=SimpleNamespace(steps=7), config=TrainConfig(epochs=3, grad_accum_steps=2))
    for step in (0, 6, 7):
        check_place(setup, Progress(epoch=1, step=step))
    with pytest.raises(ValueError, match='at step 5, amid an update'):
        check_place(setup, Progress(epoch=1, step=5))


def of_two_processes(checkpoint: dict) -> None:
    checkpoint['dkszoo']['processes'] *= 2


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda checkpoint: checkpoint.pop('state_dict_ema'), 'was made without --model-ema'),
        (of_two_processes, r'made by 2 processes, not 1 \(torchrun --nproc-per-node 2\)'),
    ],
)
def test_checkpoints_of_another_kind_of_run(change, reason):
    task = SimpleNamespace(load_checkpoint_state=lambda *_, **__: None, has_ema=lambda: True)
    world, sampler = SimpleNamespace(size=1, rank=0), SimpleNamespace(steps=7)
    setup = SimpleNamespace(
        task=task, world=world, sampler=sampler, config=TrainConfig(model='cifar_resnet8', epochs=3)
    )
    checkpoint = read_checkpoint(GOLDEN)
    change(checkpoint)
    with pytest.raises(ValueError, match=reason):
        restore(setup, checkpoint)


def test_a_run_is_cleared_from_its_result_to_its_settings(tmp_path, monkeypatch):
    for name in (*RECORDS, LAST, BEST, 'recovery-0-2.pth.tar', 'mine.txt'):
        (tmp_path / name).touch()
    gone, unlink = [], Path.unlink
    monkeypatch.setattr(Path, 'unlink', lambda path, **how: gone.append(path.name) or unlink(path, **how))
    RunFolder(tmp_path).clear()
    assert (gone[0], gone[-1]) == ('run.json', 'args.yaml')
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_a_line_of_the_log_is_flushed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr('os.fsync', lambda _: flushed.append((tmp_path / 'log.jsonl').read_text()))
    RunFolder(tmp_path).log(epoch=0)
    assert flushed == ['{"epoch": 0}\n']


def test_a_run_that_begins_anew_has_no_summary(tmp_path):
    (tmp_path / 'summary.csv').touch()
    RunFolder(tmp_path).write_summary([])
    assert not list(tmp_path.iterdir())


def test_ruined_weights_are_not_saved_at_the_end_of_an_epoch_either(kept, monkeypatch):
    monkeypatch.setattr(kept, 'is_sound', lambda: False)
    for save in (lambda: kept.save_recovery(Progress()), lambda: kept.save_epoch(Progress(epoch=1), 50.0, True)):
        with pytest.raises(keeper.RunFailed, match='were not saved'):
            save()


def test_recovery_files_are_ordered_by_number(tmp_path):
    names = [f'recovery-{place}.pth.tar' for place in ('10-10', '10-9', '9-10', '9-9')]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in recovery_files(tmp_path)] == names


@pytest.mark.parametrize(
    ('dataset', 'data_dir', 'epoch', 'best'),
    [('', 'here', 1, 0), ('', 'there', 1, None), ('', 'there', 2, 0), ('torch/cifar10', 'there', 1, 0)],
)
def test_a_best_epoch_that_another_folder_of_images_chose_is_none(kept, monkeypatch, dataset, data_dir, epoch, best):
    """But it stays at the end of a run, where no other is to come."""
    config = TrainConfig(epochs=2, dataset=dataset, data_dir='here')
    kept.setup = SimpleNamespace(world=SimpleNamespace(is_main=False), config=config)
    monkeypatch.setattr(keeper, 'newest_checkpoint', lambda *_: (Path(LAST), {'args': {'data_dir': data_dir}}))
    monkeypatch.setattr(keeper, 'restore', lambda *_: Progress(epoch=epoch, best_epoch=0, best_metric=50.0))
    assert kept.resume().best_epoch == best


@pytest.mark.parametrize(('step', 'name'), [(0, LAST), (4, 'recovery-1-4.pth.tar')])
def test_a_file_from_elsewhere_gets_its_place_in_the_folder(kept, tmp_path, step, name):
    nothing = lambda _: None  # noqa: E731
    kept.folder = SimpleNamespace(path=tmp_path, write_summary=nothing, trim_log=nothing)
    kept.last, kept.source = tmp_path / LAST, GOLDEN
    kept.settle(Progress(epoch=1, step=step))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert kept.source == tmp_path / name


def test_an_epoch_that_stands_in_for_the_best_does_so_with_its_own_figure(kept, tmp_path):
    torch.save({**read_checkpoint(GOLDEN), 'metric': 70.0}, tmp_path / LAST)
    kept.setup = SimpleNamespace(world=SimpleNamespace(is_main=False))
    kept.last, kept.best, kept.source = tmp_path / LAST, tmp_path / BEST, tmp_path / LAST
    progress = Progress(epoch=2, best_epoch=0, best_metric=90.0)
    kept.mend_best(progress)
    assert (progress.best_epoch, progress.best_metric) == (1, 70.0)


@pytest.mark.parametrize(
    ('settings', 'name'),
    [
        ({'dataset': 'torch/cifar10'}, 'resnet18-dks-torch_cifar10'),
        ({'dataset': '', 'data_dir': '/data/flowers'}, 'resnet18-dks-flowers'),
        ({'experiment': 'a/b'}, 'a_b'),
    ],
)
def test_the_name_of_a_run_folder(settings, name):
    assert RunFolder.of(TrainConfig(model='resnet18', method='dks', **settings)).path == Path('runs') / name


def test_the_systems_own_words_are_said_of_a_disk():
    """Which torch's writer wraps in others, one in another."""
    error = RuntimeError('PytorchStreamWriter failed')
    error.__context__ = RuntimeError('unexpected pos 64 vs 0')
    error.__context__.__context__ = OSError(28, 'No space left on device')
    assert reason(error) == 'No space left on device'
    assert reason(ValueError('a line\nanother')) == 'a line'


@pytest.mark.parametrize(
    ('reason', 'said'),
    [('it is odd', 'it is odd (--overwrite starts anew)'), ('it is odd (mend it)', 'it is odd (mend it)')],
)
def test_a_refusal_says_once_what_to_do(kept, monkeypatch, reason, said):
    def refuse(*_):
        raise ValueError(reason)

    kept.setup = SimpleNamespace(config=TrainConfig())
    monkeypatch.setattr(keeper, 'newest_checkpoint', lambda *_: (Path(LAST), {}))
    monkeypatch.setattr(keeper, 'restore', refuse)
    with pytest.raises(ValueError, match=r'cannot resume from') as caught:
        kept.resume()
    assert str(caught.value) == f"cannot resume from '{LAST}': {said}"
