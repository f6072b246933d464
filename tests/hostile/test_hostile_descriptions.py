"""Safetensors files with wrong headers, and what cards and checkpoints can say of a model."""

import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import save

import dkszoo
from dkszoo.weights import sha256, write_card

EVIL = b"cposix\nsystem\n(S'touch {}'\ntR."


def header(entries, length=None, tail=bytes(8)) -> bytes:
    """A safetensors file: 8 bytes length, JSON, data."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + tail


def tensor(dtype='F32', shape=(2,), offsets=(0, 8)) -> dict:
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


HEADERS = {
    'length of everything': header({'a': tensor()}, 2**64 - 1),
    'length beyond the file': header({'a': tensor()}, 1 << 30),
    'length of nothing': header({'a': tensor()}, 0),
    'no header': b'\x08',
    'no JSON': header(b'{"a": '),
    'no text': header(b'\xff\xfe\x00{}'),
    'a list': header([1, 2]),
    'overlap': header({'a': tensor(), 'b': tensor(offsets=(4, 12))}, tail=bytes(12)),
    'the same bytes twice': header({'a': tensor(), 'b': tensor()}),
    'hole': header({'a': tensor(), 'b': tensor(offsets=(16, 24))}, tail=bytes(24)),
    'beyond the file': header({'a': tensor(shape=(200,), offsets=(0, 800))}),
    'backwards': header({'a': tensor(offsets=(8, 0))}),
    'negative offset': header({'a': tensor(offsets=(-8, 0))}),
    'negative size': header({'a': tensor(shape=(-2,))}),
    'unknown type': header({'a': tensor('F31')}),
    'size that overflows': header({'a': tensor(shape=(2**62, 2**62))}),
    'other size': header({'a': tensor(shape=(3,))}),
    'pickled': header({'a': tensor()}).replace(b'F32', b'O32'),
    'deep': header(b'[' * 100000),
    'complex numbers': header({'a': tensor('C64', (1,))}),
}


@pytest.mark.parametrize('name', HEADERS)
def test_safetensors_headers(refused, name):
    (refused.place / 'x.safetensors').write_bytes(HEADERS[name])
    assert 'is not a safetensors file, or is damaged' in refused('convert', 'x.safetensors', 'o.safetensors')
    seal(refused.place / 'x.safetensors', CARD)
    assert 'is not a safetensors file, or is damaged' in refused('validate', '--checkpoint', 'x.safetensors')


DATA = {'input_size': [3, 32, 32], 'mean': [0.5] * 3, 'std': [0.5] * 3, 'interpolation': 'bilinear', 'crop_pct': 1.0}
CARD = {'arch': 'cifar_resnet8', 'model_args': {'num_classes': 3}, 'data': DATA, 'dataset': 'digits'}


def seal(path, card) -> None:
    """Write a card whose checksums fit: whoever makes a file can make those too."""
    card = {**card, 'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}
    card['card_sha256'] = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    path.with_suffix('.json').write_text(json.dumps(card))


DESCRIPTIONS = {
    'address': {'arch': 'hf-hub:owner/name'},
    'folder': {'arch': 'local-dir:place'},
    'no name': {'arch': ['cifar_resnet8']},
    'unknown name': {'arch': 'cifar_resnet9'},
    'path': {'arch': '../../x'},
    'file to load': {'model_args': {'num_classes': 3, 'checkpoint_path': 'evil.pth'}},
    'weights to load': {'model_args': {'pretrained': True}},
    'address to load': {'model_args': {'pretrained_cfg': {'url': 'http://127.0.0.1:9/x', 'file': 'evil.pth'}}},
    'overlay': {'model_args': {'pretrained_cfg_overlay': {'file': 'evil.pth'}}},
    'list of arguments': {'model_args': [1, 2]},
    'text of arguments': {'model_args': 'num_classes=3'},
    'unknown argument': {'model_args': {'num_classes': 3, 'colour': 'red'}},
    'argument of another type': {'model_args': {'num_classes': 'three'}},
    'list of classes': {'model_args': {'num_classes': [10]}},
    'negative classes': {'model_args': {'num_classes': -3}},
    'too many classes': {'model_args': {'num_classes': 20_000_000}},
    'too many blocks': {'model_args': {'num_classes': 3, 'layers': [10**9] * 3}},
    'endless number': {'model_args': {'num_classes': 3, 'drop_rate': float('inf')}},
    'another network': {'arch': 'eva02_enormous_patch14_clip_224'},  # made before it is compared it fills 17 GB
    'data is a text': {'data': 'nothing'},
    'data is empty': {'data': {}},
    'huge images': {'data': {**DATA, 'input_size': [3, 10**9, 10**9]}},
    'negative images': {'data': {**DATA, 'input_size': [3, -32, 32]}},
    'large images': {'data': {**DATA, 'input_size': [3, 4096, 4096]}},
    'no spread': {'data': {**DATA, 'std': [0.5, 0.5, 0]}},
    'mean is no number': {'data': {**DATA, 'mean': [float('nan')] * 3}},
    'crop of nothing': {'data': {**DATA, 'crop_pct': 1e-300}},
    'other channels': {'data': {**DATA, 'input_size': [1, 32, 32]}},
    'means are texts': {'data': {**DATA, 'mean': ['a', 'b', 'c']}},
    'interpolation': {'data': {**DATA, 'interpolation': '__class__'}},
    'crop': {'data': {**DATA, 'crop_pct': {}}},
    'class names': {'class_names': {'a': 1}},
    'dataset': {'dataset': ['digits']},
    'evaluation': {'evaluation': [1]},
    'batch of none': {'evaluation': {'batch_size': 0}},
}


@pytest.fixture
def place(refused, canary):
    """The commands' folder, with a pickle that descriptions point to."""
    (refused.place / 'evil.pth').write_bytes(EVIL.replace(b'{}', str(canary).encode()))
    return refused.place


@pytest.mark.parametrize('name', DESCRIPTIONS)
def test_cards(refused, place, name):
    state = dkszoo.create_model('cifar_resnet8', num_classes=3).state_dict()
    (place / 'x.safetensors').write_bytes(save(state))
    seal(place / 'x.safetensors', {**CARD, **DESCRIPTIONS[name]})
    refused('validate', '--checkpoint', 'x.safetensors')


@pytest.mark.parametrize('key', ['arch', 'model_args', 'data'])
def test_cards_that_lack_something(refused, place, key):
    (place / 'x.safetensors').write_bytes(save(dkszoo.create_model('cifar_resnet8', num_classes=3).state_dict()))
    seal(place / 'x.safetensors', {name: value for name, value in CARD.items() if name != key})
    assert f'lacks {key!r}' in refused('validate', '--checkpoint', 'x.safetensors')


@pytest.mark.parametrize('key', ['sha256', 'card_sha256'])
def test_cards_that_lack_a_checksum(refused, place, key):
    path = place / 'x.safetensors'
    path.write_bytes(save(dkszoo.create_model('cifar_resnet8', num_classes=10).state_dict()))
    card = {**CARD, 'model_args': {'num_classes': 10}}
    if key == 'sha256':
        write_card(path, card)
    else:
        path.with_suffix('.json').write_text(json.dumps({**card, 'sha256': sha256(path)}))
    assert f'lacks {key!r}' in refused('validate', '--checkpoint', 'x.safetensors')


@pytest.mark.parametrize('text', ['[]', '7', 'null', '{"sha256": ', '[' * 100000, '{"arch": "cifar_resnet8"}', '\x00'])
def test_cards_that_are_none(refused, place, text):
    (place / 'x.safetensors').write_bytes(save({'w': torch.ones(2)}))
    (place / 'x.json').write_text(text)
    refused('validate', '--checkpoint', 'x.safetensors')


CHECKPOINTS = {
    'no data': {'data': None},
    'no method': {'method': None},
    'design': {'design': ['dks']},
    'unknown design': {'design': 'x'},
    'empty design': {'design': {}},
    'design of texts': {'design': {'branches': ['a', 'b']}},
    'taps': {'design': 'dks', 'taps': {'a': 1}},
    'taps of objects': {'design': 'dks', 'taps': [None, {}]},
    'method': {'method': {'a': 1}},
}


@pytest.mark.parametrize('name', [*DESCRIPTIONS, *CHECKPOINTS])
def test_checkpoints(refused, place, name):
    state = dkszoo.create_model('cifar_resnet8', num_classes=3).state_dict()
    model = {**CARD, 'design': None, 'method': 'baseline', **DESCRIPTIONS.get(name, {}), **CHECKPOINTS.get(name, {})}
    contents = {'state_dict': state, 'task_state': {'branches': {}}, 'epoch': 0, 'args': {}}
    torch.save({**contents, 'dkszoo': {'format': 1, 'model': model}}, place / 'x.pth.tar')
    refused('export', 'x.pth.tar', 'o.safetensors')
    refused('validate', '--checkpoint', 'x.pth.tar')


PARTS = {
    'no epoch': {'epoch': None},
    'epoch': {'epoch': 'first'},
    'settings': {'args': [1]},
    'no branches': {'task_state': None},
    'branches': {'task_state': {'branches': [1]}},
    'tensors': {'state_dict': {'a': 'text'}},
    'state': {'state_dict': [1, 2]},
    'ours': {'dkszoo': [1]},
}


@pytest.mark.parametrize('name', PARTS)
def test_parts_of_checkpoints(refused, place, name):
    net = dkszoo.create_model('cifar_resnet8', num_classes=3, branches='dks')
    contents = {**dkszoo.DeepSupervisionTask(net).get_checkpoint_state(), 'epoch': 0, 'args': {}}
    model = {**CARD, 'design': 'dks', 'taps': [0, 1], 'method': 'dks'}
    contents = {**contents, 'dkszoo': {'format': 1, 'model': model}, **PARTS[name]}
    torch.save(contents, place / 'x.pth.tar')
    refused('export', 'x.pth.tar', 'o.safetensors')
    refused('validate', '--checkpoint', 'x.pth.tar')


@pytest.mark.parametrize('args', [{'model_kwargs': {'checkpoint_path': 'evil.pth'}}, {'model_kwargs': [1]}])
def test_timms_checkpoints(refused, place, args):
    state = dkszoo.create_model('cifar_resnet8', num_classes=3).state_dict()
    wrong = {**state, 'fc.bias': torch.zeros(4)}
    torch.save({'state_dict': wrong, 'version': 2, 'arch': 'cifar_resnet8', 'args': args}, place / 'x.pth.tar')
    refused('convert', 'x.pth.tar', 'o.safetensors')
