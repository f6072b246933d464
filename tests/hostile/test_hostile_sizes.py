"""Small checkpoints that stand for more than fits in memory or time: refused before either is spent."""

import argparse
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from dkszoo.weights import read_pickle, untrusted

# With what torch's format before 1.6 begins.
OLD_TORCH = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]


def doubling_tuples(levels: int = 45) -> bytes:
    """A pickle of a dict whose key, a tuple of tuples that share their items, takes 2**levels steps to hash."""
    body = b'\x80\x02K\x01\x85q\x000'
    for i in range(levels):
        body += b'h%bh%b\x86q%b0' % (bytes([i]), bytes([i]), bytes([i + 1]))
    return body + b'}h%bK\x01s.' % bytes([levels])


def hiding(value, name: str):
    """The value with an attribute that takes a method's place."""
    setattr(value, name, 'x')
    return value


def unnamed() -> OrderedDict:
    value = OrderedDict(a=1)
    value.__dict__[5] = 'x'
    return value


def recursive() -> argparse.Namespace:
    items = []
    items += [items, items]
    return argparse.Namespace(model_kwargs=items)


def doubling_list(levels: int = 45) -> list:
    nested = [1]
    for _ in range(levels):
        nested = [nested, nested]
    return nested


OBJECTS = {
    'shared lists': (doubling_list, 'too many values'),
    'shared lists of settings': (lambda: argparse.Namespace(a=doubling_list()), 'too many values'),
    'recursive settings': (recursive, 'too many values'),
    'hidden method of a tensor': (lambda: hiding(nn.Parameter(torch.zeros(3)), 'detach'), 'place of a method'),
    'attribute without a name': (unnamed, 'place of a method'),
    'hidden method of a dict': (lambda: hiding(OrderedDict(a=1), 'values'), 'place of a method'),
    'expanded tensor': (lambda: torch.zeros(1, 1).expand(300_000_000, 64), 'with more numbers than are stored'),
    'complex tensor': (lambda: torch.zeros(3, dtype=torch.complex64), 'not plain numbers'),
    'sparse tensor': (lambda: torch.ones(3).to_sparse(), 'not plain numbers'),
    'meta tensor': (lambda: torch.zeros(3, device='meta'), 'not plain numbers'),
    'bytearray': (lambda: bytearray(100), 'bytearray'),
}


def refused(path, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_pickle(path)


@pytest.mark.parametrize('form', ['data.pkl', 'DATA.PKL', 'bare', 'old, object', 'old, storages'])
def test_tuples_that_double(form, tmp_path):
    """torch finds DATA.PKL, too."""
    path = tmp_path / 'bomb.pth.tar'
    if form.lower() == 'data.pkl':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr(f'a/{form}', doubling_tuples())
            archive.writestr('a/version', '3\n')
            archive.writestr('a/byteorder', 'little')
    else:
        before = {'bare': [], 'old, object': OLD_TORCH, 'old, storages': [*OLD_TORCH, {}]}[form]
        path.write_bytes(b''.join(pickle.dumps(value, 2) for value in before) + doubling_tuples())
    refused(path, 'too many values')


@pytest.mark.filterwarnings('ignore:Validating sparse')
@pytest.mark.parametrize('name', OBJECTS)
@pytest.mark.parametrize('zipped', [True, False])
def test_objects(name, zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, 'MOST_VALUES', 10_000)  # sooner come to than the real one
    make, says = OBJECTS[name]
    torch.save({'state_dict': make()}, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
    refused(tmp_path / 'x.pth', says)


def test_views_are_let_in(tmp_path):
    rows = torch.arange(24.0).reshape(4, 6)
    saved = {
        'part': rows[1:3, ::2],
        'turned': rows.t(),
        'maps': torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    torch.save(saved, tmp_path / 'x.pth')
    read = read_pickle(tmp_path / 'x.pth')
    assert all(torch.equal(read[key], value) for key, value in saved.items())
