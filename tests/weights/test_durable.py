import contextlib
import errno
import os
import stat

import pytest

from dkszoo.weights import durable


def test_replaces_whole_file(tmp_path):
    path = tmp_path / 'a.txt'
    durable.write_text(path, 'old')
    durable.write_text(path, 'new')
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['a.txt']


@pytest.mark.parametrize('failing', ['write', 'check', 'fsync', 'replace'])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / 'a.txt'
    durable.write_text(path, 'old')

    def fail(*args):
        raise OSError(28, 'No space left on device')

    if failing in ('fsync', 'replace'):
        monkeypatch.setattr(os, failing, fail)
    write = fail if failing == 'write' else lambda temporary: temporary.write_text('new')
    with pytest.raises(OSError, match='No space left') as error:
        durable.write_durably(path, write, fail if failing == 'check' else None)
    assert error.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['a.txt']


def test_an_error_keeps_its_words(tmp_path):
    def fail(_):
        raise OSError('encoder error -2')

    with pytest.raises(OSError, match=r'^encoder error -2$'):
        durable.write_durably(tmp_path / 'a.png', fail)


def test_nothing_is_left_of_what_was_broken_off(tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        durable.write_durably(tmp_path / 'a.txt', lambda temporary: temporary.write_text('new'), stop)
    assert os.listdir(tmp_path) == []


def test_no_file_stays_open(tmp_path):
    before = os.listdir('/proc/self/fd')
    durable.write_text(tmp_path / 'a.txt', 'x')
    assert os.listdir('/proc/self/fd') == before


def test_sha256(tmp_path):
    (tmp_path / 'a').write_bytes(b'abc')
    assert durable.sha256(tmp_path / 'a') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'


@pytest.mark.parametrize('mask', [0o022, 0o077])
def test_files_have_the_mode_of_any_other(tmp_path, mask):
    before = os.umask(mask)
    try:
        durable.write_text(tmp_path / 'a', 'x')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == 0o666 & ~mask


def test_first_the_file_is_flushed_and_then_its_new_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(durable, 'sync', lambda path: flushed.append((path.is_dir(), (tmp_path / 'a.txt').exists())))
    durable.write_text(tmp_path / 'a.txt', 'x')
    assert flushed == [(False, False), (True, True)]


@pytest.mark.parametrize(('name', 'passes'), [('', True), ('a.txt', False)])
def test_a_folder_that_may_not_be_read_is_not_flushed(tmp_path, monkeypatch, name, passes):
    (tmp_path / 'a.txt').touch()

    def refuse(*_):
        raise PermissionError(errno.EACCES, 'Denied')

    monkeypatch.setattr(os, 'open', refuse)
    with contextlib.nullcontext() if passes else pytest.raises(PermissionError):
        durable.sync(tmp_path / name)


@pytest.mark.parametrize(
    ('name', 'code', 'passes'),
    [('', errno.EINVAL, True), ('', errno.ENOTSUP, True), ('', errno.EIO, False), ('a.txt', errno.EINVAL, False)],
)
def test_only_folders_may_be_such_as_cannot_be_flushed(tmp_path, monkeypatch, name, code, passes):
    (tmp_path / 'a.txt').touch()

    def fail(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, 'fsync', fail)
    with contextlib.nullcontext() if passes else pytest.raises(OSError, match=os.strerror(code)):
        durable.sync(tmp_path / name)
