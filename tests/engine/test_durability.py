"""Files survive damage, errors and kills; what they hold can be read for ever."""

from pathlib import Path

import pytest
import torch

from benchmarks.reliability.faults import break_save, die, fail, no_space
from benchmarks.reliability.flips import flips
from benchmarks.reliability.leak import leak
from benchmarks.reliability.runs import FOLDER, PLAIN, digest
from dkszoo.engine.checkpoint import LAST, copy_checkpoint, read_checkpoint, save_checkpoint

GOLDEN = Path(__file__).parents[1] / 'golden/checkpoint_format1.pth.tar'


def test_flips_and_truncations():
    assert flips(n=15, cuts=5, every=120)


@pytest.mark.parametrize('happen', [fail, die])
def test_an_error_or_a_kill_at_file_operations(happen):
    operations, wrong, kinds = break_save(happen, every=900)
    assert not wrong
    assert operations > 10
    assert all(kinds.values())


@pytest.mark.slow
def test_no_space_left():
    assert not no_space([60_000])


@pytest.mark.slow
def test_leak():
    assert leak(60)


def test_same_state_same_bytes(tmp_path):
    """Nothing of the file's name or time is in it."""
    checkpoint = read_checkpoint(GOLDEN)
    save_checkpoint(checkpoint, tmp_path / 'a.pth.tar')
    save_checkpoint(checkpoint, tmp_path / 'bb.pth.tar')
    assert (tmp_path / 'a.pth.tar').read_bytes() == (tmp_path / 'bb.pth.tar').read_bytes()
    assert digest(read_checkpoint(tmp_path / 'a.pth.tar')) == digest(checkpoint)


def test_a_format_from_the_future_and_foreign_files(tmp_path):
    checkpoint = read_checkpoint(GOLDEN)
    checkpoint['dkszoo']['format'] = 99
    torch.save(checkpoint, tmp_path / 'new.pth.tar')
    with pytest.raises(ValueError, match=r'has format 99; this version reads 1'):
        read_checkpoint(tmp_path / 'new.pth.tar')
    torch.save({'state_dict': {}}, tmp_path / 'foreign.pth.tar')
    with pytest.raises(ValueError, match='no training checkpoint of dkszoo'):
        read_checkpoint(tmp_path / 'foreign.pth.tar')


def test_format_1_loads_and_goes_on_for_ever(run_cli, tmp_path):
    """A file of 0.1.0: DKS, EMA, AdamW, accumulation, in the middle of the second of three epochs."""
    assert digest(read_checkpoint(GOLDEN)) == 'd6f7e2f04031ae3ef76b1602e78f20de6cab4bac5908aef1acc160fb937899d8'
    settings = ('--opt', 'adamw', '--mixup', '0.2')
    code, _, err = run_cli(*PLAIN, *settings, '--resume', GOLDEN)
    assert code == 0, err
    assert f'resumed at epoch 2, step 4 from {GOLDEN}' in err
    progress = read_checkpoint(tmp_path / FOLDER / LAST)['dkszoo']['progress']
    assert (progress['epoch'], progress['updates']) == (3, 12)
    assert progress['history'][0]['train']['loss'] == 7.541541290283203
    for flags in ((), ('--no-ema',), ('--per-branch',)):
        assert run_cli('validate', '--checkpoint', GOLDEN, *flags)[0] == 0
    assert run_cli('export', GOLDEN, 'out.safetensors')[0] == 0


def test_a_loading_process_that_dies_in_a_save_is_no_fault_of_the_disk(tmp_path, monkeypatch):
    def interrupted(*_):
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')

    monkeypatch.setattr(torch, 'save', interrupted)
    with pytest.raises(RuntimeError, match='DataLoader worker'):
        save_checkpoint({}, tmp_path / 'a.pth.tar')
    assert not list(tmp_path.iterdir())


def test_a_copy_that_is_not_its_source_is_not_kept(tmp_path, monkeypatch):
    source, target = tmp_path / 'a.pth.tar', tmp_path / 'b.pth.tar'
    source.write_bytes(b'new')
    target.write_bytes(b'old')
    monkeypatch.setattr('shutil.copyfile', lambda source, target: target.write_bytes(b'ne_'))
    with pytest.raises(OSError, match=r'cannot write .*b\.pth\.tar.*: the copy differs from .*a\.pth\.tar'):
        copy_checkpoint(source, target)
    assert (target.read_bytes(), len(list(tmp_path.iterdir()))) == (b'old', 2)
    monkeypatch.undo()
    copy_checkpoint(source, target)
    assert target.read_bytes() == b'new'
