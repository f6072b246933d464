import argparse
import errno
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dkszoo.weights import backbone_state, load_strictly, read_pickle
from dkszoo.weights.allowed import name_of


class Call:
    """Unpickles as the result of a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def saved(tmp_path, value, **kwargs):
    path = tmp_path / 'file.pth'
    torch.save(value, path, **kwargs)
    return path


@pytest.mark.parametrize('legacy', [False, True])
def test_reads_data_namespaces_and_numpy_scalars(tmp_path, legacy):
    value = {
        'state_dict': {'w': torch.ones(2)},
        'args': argparse.Namespace(lr=0.1),
        'acc': np.float64(3.5),
        'half': np.float32(1.5),
        'count': np.int64(7),
    }
    path = saved(tmp_path, value, _use_new_zipfile_serialization=not legacy)
    back = read_pickle(path)
    assert (back['acc'], back['half'], back['count'], back['args'].lr) == (3.5, 1.5, 7, 0.1)
    assert torch.equal(back['state_dict']['w'], torch.ones(2))


def test_what_others_let_in_stays_let_in(tmp_path):
    path = saved(tmp_path, {'args': argparse.Namespace()})
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_pickle(path)
        torch.load(path, weights_only=True)


def test_no_name_is_let_in_twice(tmp_path, monkeypatch):
    """torch keeps its allow-list as a set: of two entries of a name, chance would choose."""
    path, plain, names = saved(tmp_path, {'a': np.float64(3.5)}), torch.load, []
    theirs = [np._core.multiarray.scalar, np.dtype, type(np.dtype('f8')), Call]

    def load(*args, **kwargs):
        names.extend(map(name_of, torch.serialization.get_safe_globals()))
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch, 'load', load)
    with torch.serialization.safe_globals(theirs):
        assert read_pickle(path) == {'a': 3.5}
        assert set(torch.serialization.get_safe_globals()) >= set(theirs)
    assert len(names) == len(set(names))
    assert name_of(Call) in names


def test_several_threads_may_read(tmp_path):
    path, interval = saved(tmp_path, {'args': argparse.Namespace()}), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _: 'args' in read_pickle(path), range(100)))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize('kind', ['f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', '?'])
def test_numpy_scalars_of_every_kind(tmp_path, kind):
    back = read_pickle(saved(tmp_path, {'a': np.dtype(kind).type(1)}))['a']
    assert (back, back.dtype) == (1, np.dtype(kind))


def test_numpy_scalars_of_the_other_byte_order(tmp_path):
    kind = np.dtype('>f8')
    path = saved(tmp_path, {'a': Call(np._core.multiarray.scalar, kind, np.array(3.5, kind).tobytes())})
    assert read_pickle(path) == {'a': 3.5}


@pytest.mark.parametrize('kind', ['V4', 'U1', 'S4', 'M8', 'c8', '(2,)i4', 'i2,i2'])
def test_scalars_that_are_no_numbers_are_refused(tmp_path, kind):
    """Without data NumPy allocates their size, which the file may choose."""
    with pytest.raises(ValueError, match='or is damaged'):
        read_pickle(saved(tmp_path, {'a': Call(np._core.multiarray.scalar, Call(np.dtype, kind))}))


def test_scalars_of_python_2(tmp_path):
    """Their bytes are a text there."""
    data = np.float64(92.5).tobytes()
    call = b'cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0f8K\0K\x01tRU\x08%btR.' % data
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    head = b''.join(pickle.dumps(value, 2) for value in head)
    (tmp_path / 'x.pth').write_bytes(head + b'\x80\x02' + call + pickle.dumps([], 2))
    assert read_pickle(tmp_path / 'x.pth') == 92.5


def test_scalars_of_numpy_1(tmp_path):
    path = saved(tmp_path, {'acc': np.float64(3.5)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b'cnumpy._core.multiarray\n' in content
    path.write_bytes(content.replace(b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n'))
    assert read_pickle(path) == {'acc': 3.5}


@pytest.mark.parametrize('legacy', [False, True])
def test_code_is_refused_and_not_run(tmp_path, legacy):
    mark = tmp_path / 'ran'
    path = saved(tmp_path, {'state_dict': Call(os.system, f'touch {mark}')}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match='code or objects'):
        read_pickle(path)
    assert not mark.exists()


def test_numpy_arrays_are_not_on_the_allow_list(tmp_path):
    with pytest.raises(ValueError, match='code or objects'):
        read_pickle(saved(tmp_path, {'a': np.ones(3)}))


def test_missing_empty_foreign_truncated_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match='no checkpoint file'):
        read_pickle(tmp_path / 'nothing')
    with pytest.raises(
        ValueError, match=r' is a folder \(give a file in it: last.pth.tar of a run, .* of a hub folder\)$'
    ):
        read_pickle(tmp_path)
    (tmp_path / 'w.safetensors').write_bytes(save({'w': torch.ones(2)}))
    with pytest.raises(ValueError, match='start from it with --initial-checkpoint'):
        read_pickle(tmp_path / 'w.safetensors')
    path = tmp_path / 'empty'
    path.touch()
    with pytest.raises(ValueError, match='is empty'):
        read_pickle(path)
    path.write_text('<html>not found</html>')
    with pytest.raises(ValueError, match='is not a checkpoint'):
        read_pickle(path)
    path.write_bytes(pickle.dumps({'a': 1})[:-3])
    with pytest.raises(ValueError, match='is not a checkpoint'):
        read_pickle(path)
    good = saved(tmp_path, {'w': torch.arange(1000.0)})
    content = good.read_bytes()
    good.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match='truncated'):
        read_pickle(good)
    flipped = bytearray(content)
    flipped[content.index(torch.arange(1000.0).numpy().tobytes()[400:800])] ^= 1
    good.write_bytes(flipped)
    with pytest.raises(ValueError, match='checksum'):
        read_pickle(good)


@pytest.mark.parametrize('error', [OSError(errno.EIO, 'Input/output error'), MemoryError()])
@pytest.mark.parametrize('place', ['builtins.open', 'zipfile.ZipFile.testzip', 'torch.load'])
def test_what_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch, place, error):
    path = saved(tmp_path, {'w': torch.ones(2)})

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(place, fail)
    with pytest.raises(type(error)):
        read_pickle(path)


@pytest.mark.parametrize('error', [OSError(errno.EINVAL, 'Invalid argument'), OSError('not what was expected')])
def test_a_place_that_the_file_names_and_that_cannot_be(tmp_path, monkeypatch, error):
    path = saved(tmp_path, {'w': torch.ones(2)})

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr('torch.load', fail)
    with pytest.raises(ValueError, match=r'is damaged \(OSError\)'):
        read_pickle(path)


def test_backbone_state_prefers_the_average():
    a, b = {'w': torch.zeros(1)}, {'w': torch.ones(1)}
    assert backbone_state({'state_dict': a, 'state_dict_ema': b})['w'] == 1
    assert backbone_state({'state_dict': a, 'state_dict_ema': b}, ema=False)['w'] == 0
    assert backbone_state(a)['w'] == 0
    with pytest.raises(ValueError, match='no state dict'):
        backbone_state({'epoch': 3})
    with pytest.raises(ValueError, match='no state dict'):
        backbone_state({'state_dict': {}})


def test_load_strictly_names_the_first_difference():
    model = torch.nn.Linear(2, 3)
    state = dict(model.state_dict())
    load_strictly(model, state, 'file')
    with pytest.raises(ValueError, match="file does not fit the model: it lacks 'bias'"):
        load_strictly(model, {'weight': state['weight']}, 'file')
    with pytest.raises(ValueError, match="which has no 'extra'"):
        load_strictly(model, {**state, 'extra': torch.ones(1)}, 'file')
    with pytest.raises(ValueError, match=r"'weight' has shape \[2, 2\], expected \[3, 2\]"):
        load_strictly(model, {**state, 'weight': torch.ones(2, 2)}, 'file')
    bits = {key: torch.ones(value.shape, dtype=torch.uint8).view(torch.bits8) for key, value in state.items()}
    with pytest.raises(
        ValueError, match='file does not fit the model: While copying the parameter named "weight"'
    ) as no:
        load_strictly(model, bits, 'file')
    assert '"bias"' not in str(no.value)


def test_checkpoints_of_many_values(tmp_path):
    """As those of ResNet-1202 with an optimizer, averaged weights and branches."""
    torch.save({'state_dict': {'w': torch.ones(2)}, 'history': [7] * 1_200_000}, tmp_path / 'a.pth')
    assert len(read_pickle(tmp_path / 'a.pth')['history']) == 1_200_000


def test_a_name_with_colons_of_a_time(tmp_path):
    """torch names the records of a file after the file."""
    path = tmp_path / 'run-12:30:00.pth'
    torch.save({'w': torch.ones(2)}, path)
    assert torch.equal(read_pickle(path)['w'], torch.ones(2))
