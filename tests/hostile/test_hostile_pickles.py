"""Pickles with code, and zip files that are not what torch writes."""

import importlib
import io
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch
from torch import nn


class Call:
    """Unpickles as the result of a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(canary) -> dict:
    touch = f'open({str(canary)!r}, "w").close()'
    return {
        'eval': Call(eval, touch),
        'exec': Call(exec, touch),
        'open': Call(open, str(canary), 'w'),
        'Popen': Call(subprocess.Popen, ['touch', str(canary)]),
        'getattr': Call(getattr, str, 'join'),
        'import': Call(importlib.import_module, 'antigravity'),
        'rmtree': Call(shutil.rmtree, str(canary.parent)),
        'torch.load': Call(torch.load, str(canary)),
        'compile': Call(compile, touch, 'x', 'exec'),
        'network': nn.Linear(2, 2),
    }


WRAP = {
    'state_dict value': lambda payload: {'state_dict': {'conv1.weight': payload}},
    'deep in a list': lambda payload: {'state_dict': {}, 'history': [[[{'a': (1, [payload])}]]]},
    'key': lambda payload: {('a', payload): 1} if payload.__hash__ else {'a': payload},
    'settings': lambda payload: {'state_dict': {}, 'args': {'lr': payload}, 'dkszoo': {'format': 1}},
}
READERS = {
    'validate': lambda file: ('validate', '--checkpoint', file),
    'export': lambda file: ('export', file, 'o.safetensors'),
    'convert': lambda file: ('convert', file, 'o.safetensors'),
    'hub': lambda file: ('export', file, '--hub-dir', 'hub'),
}
TRAIN = ('train', '--config', 'quickstart', '--device', 'cpu')


@pytest.mark.parametrize('wrap', WRAP)
@pytest.mark.parametrize('name', ['eval', 'exec', 'open', 'Popen', 'getattr', 'import'])
def test_code_in_zip_checkpoints(refused, canary, name, wrap):
    torch.save(WRAP[wrap](payloads(canary)[name]), refused.place / 'x.pth.tar')
    for argv in READERS.values():
        assert 'holds code or objects' in refused(*argv('x.pth.tar'))


@pytest.mark.parametrize('name', ['rmtree', 'torch.load', 'compile', 'network', 'eval'])
def test_code_in_files_of_old_torch(refused, canary, name):
    contents = {'state_dict': {'conv1.weight': payloads(canary)[name]}}
    torch.save(contents, refused.place / 'x.pth', _use_new_zipfile_serialization=False)
    assert 'holds code or objects' in refused('convert', 'x.pth', 'o.safetensors')
    for argv in (READERS['validate']('x.pth'), READERS['export']('x.pth')):
        assert 'is truncated or not a checkpoint' in refused(*argv)


def test_code_where_training_reads(refused, canary):
    torch.save({'state_dict': {'a': payloads(canary)['eval']}}, refused.place / 'x.pth.tar')
    for flag in ('--resume', '--initial-checkpoint'):
        assert 'holds code or objects' in refused(*TRAIN, flag, 'x.pth.tar')
    teacher = ('--method', 'kd', '--kd-model-name', 'cifar_resnet8', '--kd-checkpoint', 'x.pth.tar')
    assert 'holds code or objects' in refused(*TRAIN, *teacher)


OPCODES = {
    'GLOBAL and REDUCE': b"cposix\nsystem\n(S'touch {}'\ntR.",
    'INST': b"(S'touch {}'\niposix\nsystem\n.",
    'OBJ': b"(cposix\nsystem\nS'touch {}'\no.",
    'STACK_GLOBAL': b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x00R.',
    'BUILD': b"cargparse\nNamespace\n)R(S'__class__'\ncposix\nsystem\ndb.",
    'EXT1': b'\x80\x02\x82\x01.',
}


@pytest.mark.filterwarnings('ignore:Detected pickle protocol 4')
@pytest.mark.parametrize('name', OPCODES)
def test_hand_made_pickles(refused, canary, name):
    code = OPCODES[name].replace(b'{}', str(canary).encode())
    (refused.place / 'bare.pth').write_bytes(code)
    refused('convert', 'bare.pth', 'o.safetensors')
    refused('validate', '--checkpoint', 'bare.pth')
    rezip(refused.place / 'x.pth', {'x/data.pkl': code})
    refused('convert', 'x.pth', 'o.safetensors')
    refused('validate', '--checkpoint', 'x.pth')


def rezip(path, change: dict, add=(), packed=()) -> None:
    """A checkpoint with some of its records replaced, added ((name or ZipInfo, bytes)) or packed."""
    whole = io.BytesIO()
    torch.save({'state_dict': {'w': torch.arange(1000.0)}}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, 'w') as target:
        for info in source.infolist():
            name = f'x/{info.filename.partition("/")[2]}'
            kind = zipfile.ZIP_DEFLATED if name in packed else zipfile.ZIP_STORED
            target.writestr(name, change.get(name, source.read(info)), kind)
        for name, data in add:
            target.writestr(name, data)


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


def folder(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0x10  # as DOS marks one
    return info


ZIPS = {
    'leads up': (dict(add=[('x/../../canary', b'1')]), 'is not a path inside the file'),
    'absolute': (dict(add=[('/canary', b'1')]), 'is not a path inside the file'),
    'backslashes': (dict(add=[('x\\..\\canary', b'1')]), 'is not a path inside the file'),
    'drive': (dict(add=[('C:canary', b'1')]), 'is not a path inside the file'),
    'link': (dict(add=[(link('x/data/1'), b'/etc/passwd')]), 'is a link'),
    'folder': (dict(add=[('x/data/1/', b'')]), 'is marked as a folder'),
    'marked folder': (dict(add=[(folder('x/data/1'), b'1')]), 'is marked as a folder'),
    'line break': (dict(add=[('x/data\n/1', b'1')]), 'is not a path inside the file'),
    'packed zeros': (dict(add=[], change={'x/data/0': bytes(1 << 26)}, packed=['x/data/0']), 'is compressed'),
    'packed pickle': (dict(packed=['x/data.pkl']), 'is compressed'),
    'short storage': (dict(change={'x/data/0': bytes(8)}), 'damaged'),
    'no storage': (dict(change={'x/data/0': b''}), 'damaged'),
}


@pytest.mark.parametrize('name', ZIPS)
def test_zip_files(refused, name):
    how, says = ZIPS[name]
    rezip(refused.place / 'x.pth', **{'change': {}, **how})
    for argv in (('validate', '--checkpoint', 'x.pth'), ('convert', 'x.pth', 'o.safetensors')):
        assert says in refused(*argv)


def test_what_stands_before_a_zip_file(refused):
    """torch would read it, and not the zip file."""
    torch.save({'a': 1}, refused.place / 'old.pth', _use_new_zipfile_serialization=False)
    torch.save({'a': 2}, refused.place / 'new.pth')
    both = b''.join((refused.place / name).read_bytes() for name in ('old.pth', 'new.pth'))
    (refused.place / 'x.pth').write_bytes(both)
    assert 'something else stands before the zip file' in refused('convert', 'x.pth', 'o.safetensors')


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_record_that_stands_twice(refused):
    rezip(refused.place / 'x.pth', {}, add=[('x/data.pkl', pickle.dumps({}))])
    assert 'it has a record twice' in refused('validate', '--checkpoint', 'x.pth')


@pytest.mark.parametrize('size', [1 << 20, 0xFFFFFFF0])
def test_a_record_that_boasts(refused, size):
    """A central directory that declares a record larger than the whole file."""
    path = refused.place / 'x.pth'
    rezip(path, {})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b'x/data/0') - 46
    assert data[entry : entry + 4] == b'PK\x01\x02'
    struct.pack_into('<II', data, entry + 20, size, size)
    path.write_bytes(data)
    assert 'larger than the file' in refused('validate', '--checkpoint', 'x.pth')


def test_a_zip_file_of_two_disks(refused):
    locator = struct.pack('<4sLQL', b'PK\x06\x07', 0, 0, 2)
    (refused.place / 'x.pth').write_bytes(locator + struct.pack('<4s4H2LH', b'PK\x05\x06', *7 * [0]))
    reason = 'zipfiles that span multiple disks' if sys.version_info < (3, 14) else 'no newline found'  # to 3.14 no zip
    assert f'is damaged ({reason}' in refused('convert', 'x.pth', 'o.safetensors')


def test_tar_files_of_the_oldest_torch(refused, canary):
    """Torch before 0.1.10 unpacked a tar file; members could lead anywhere."""
    with tarfile.open(refused.place / 'x.pth', 'w') as archive:
        for name in ('../canary', str(canary), 'storages', 'tensors', 'pickle'):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b'1'))
    assert 'is not a checkpoint, or is damaged' in refused('convert', 'x.pth', 'o.safetensors')


def test_torchscript(refused):
    rezip(refused.place / 'x.pth', {}, add=[('x/constants.pkl', pickle.dumps(())), ('x/code/__torch__.py', b'')])
    assert 'is not a checkpoint, or is damaged' in refused('convert', 'x.pth', 'o.safetensors')
