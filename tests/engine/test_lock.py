"""One run at a time in a folder, also where another has just ended or nothing can be locked."""

import errno
import fcntl
import os
import socket

from dkszoo.engine.lock import FolderLock


def test_it_names_its_holder_and_goes(tmp_path):
    file = tmp_path / '.lock'
    file.write_text('a killed run, ' * 20)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert file.read_text() == f'process {os.getpid()} on {socket.gethostname()}'
    lock.release()
    assert not file.exists()


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
