"""One run at a time in a folder, also where another has just ended or nothing can be locked."""

import errno
import fcntl
import os
import socket
from types import SimpleNamespace

import pytest

from dkszoo.engine import lock as module
from dkszoo.engine.lock import FolderLock, wait_until_free


def test_it_names_its_holder_and_goes(tmp_path):
    file = tmp_path / '.lock'
    file.write_text('a killed run, ' * 20)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert file.read_text() == f'process {os.getpid()} on {socket.gethostname()}'
    lock.release()
    assert not file.exists()


def test_a_link_is_not_followed(tmp_path):
    file, link, lock = tmp_path / 'precious', tmp_path / '.lock', FolderLock(tmp_path)
    file.write_text('mine')
    link.symlink_to(file)
    lock.acquire()
    assert link.read_text().startswith('process')
    lock.release()
    assert file.read_text() == 'mine'


def test_a_file_that_its_holder_has_just_removed_locks_nothing(tmp_path, monkeypatch):
    plain, calls = fcntl.lockf, []

    def lockf(handle, how):
        if not calls:
            (tmp_path / '.lock').unlink()
        calls.append(handle)
        plain(handle, how)

    monkeypatch.setattr(fcntl, 'lockf', lockf)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert len(calls) == 2
    assert lock.is_current(lock.handle)
    lock.release()


def test_where_nothing_can_be_locked_it_is_said(tmp_path, monkeypatch, caplog):
    def lockf(handle, how):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', lockf)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    assert 'No locks available): take care that no other run uses it' in caplog.text


def test_a_lock_file_goes_before_the_lock(tmp_path, monkeypatch):
    """After it the file would be the next holder's."""
    lock, close, there = FolderLock(tmp_path), os.close, []
    lock.acquire()
    monkeypatch.setattr(os, 'close', lambda handle: there.append((tmp_path / '.lock').exists()) or close(handle))
    lock.release()
    assert there == [False]


@pytest.mark.parametrize('number', [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_another_has_is_refused(tmp_path, monkeypatch, number):
    """In either way that POSIX allows."""

    def lockf(handle, how):
        raise OSError(number, os.strerror(number))

    (tmp_path / '.lock').write_text('process 7 on a machine')
    monkeypatch.setattr(fcntl, 'lockf', lockf)
    with pytest.raises(ValueError, match='is in use by process 7 on a machine'):
        FolderLock(tmp_path).acquire()


def test_waiting_is_said_once_and_ends_when_it_is_enough(tmp_path, monkeypatch, caplog):
    def acquire(_):
        raise ValueError('it is in use (wait for it)')

    enough, naps = iter([False, False, False, True]), iter(range(3))
    monkeypatch.setattr(FolderLock, 'acquire', acquire)
    monkeypatch.setattr(module, 'time', SimpleNamespace(sleep=lambda _: next(naps)))
    assert wait_until_free(tmp_path, lambda: next(enough))
    assert caplog.messages == ['waiting: it is in use']


def test_a_folder_nobody_may_write_is_not_waited_for(tmp_path, monkeypatch):
    def acquire(_):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(FolderLock, 'acquire', acquire)
    assert not wait_until_free(tmp_path, lambda: False)


@pytest.mark.parametrize(
    'look', [lambda folder: wait_until_free(folder, lambda: False), lambda folder: FolderLock(folder).sweep()]
)
def test_who_only_looks_holds_nothing(tmp_path, look):
    """The lock file of a killed run goes; it would be held for as long as this process lives."""
    (tmp_path / '.lock').write_text('process 1 on a machine')
    look(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_held_stays(tmp_path, monkeypatch):
    def acquire(_):
        raise ValueError('it is in use')

    (tmp_path / '.lock').touch()
    monkeypatch.setattr(FolderLock, 'acquire', acquire)
    FolderLock(tmp_path).sweep()
    assert (tmp_path / '.lock').exists()
