"""One run at a time in a folder."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not detected
    fcntl = None

_logger = logging.getLogger(__name__)


def wait_until_free(folder: Path, enough: Callable[[], bool]) -> bool:
    """Wait while another process uses a folder, such as a run that outlived the grid that started it.

    Args:
        folder: The folder, which need not exist.
        enough: Called every second; True ends the wait.

    Returns:
        Whether there was one.
    """
    lock, told = FolderLock(folder), False
    while folder.is_dir() and not enough():
        try:
            lock.acquire()
        except ValueError as error:
            if not told:
                _logger.warning('waiting: %s', str(error).partition(' (')[0])
            told = True
            time.sleep(1)
        except OSError:  # whoever writes there next will report it
            break
        else:
            lock.release()
            break
    return told


class FolderLock:
    """The exclusive right to write to a folder; the system releases it when the process ends, however it ends.

    A POSIX record lock on the file `.lock`: it works on NFS, and loading processes do not inherit it.

    Args:
        folder: The folder; it must exist.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder) / '.lock'
        self.handle: int | None = None

    def acquire(self) -> None:
        """Take the lock, or warn and continue without it if the file system has none.

        Raises:
            ValueError: Another process holds it.
            OSError: The folder cannot be written.
        """
        if fcntl is None:
            return
        while self.handle is None:
            if self.path.is_symlink():
                self.path.unlink()  # its target is not ours
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                holder = os.read(handle, 200).decode(errors='replace')
                os.close(handle)
                raise ValueError(
                    f'{str(self.path.parent)!r} is in use by {holder or "another process"} '
                    '(wait for it or stop it; --experiment names another folder)'
                ) from None
            except OSError as error:
                os.close(handle)
                _logger.warning('no lock on %r (%s): take care that no other run uses it', str(self.path.parent), error)
                return
            if self.is_current(handle):
                self.handle = handle
            else:  # its previous holder has just removed the file
                os.close(handle)
        with contextlib.suppress(OSError):  # the contents are only for the message above
            os.ftruncate(self.handle, 0)
            os.write(self.handle, f'process {os.getpid()} on {socket.gethostname()}'.encode())

    def is_current(self, handle: int) -> bool:
        """Whether the open file is still the one in the folder."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        return False

    def sweep(self) -> None:
        """Remove the lock file of a killed process; one that is held or cannot be removed stays."""
        if self.path.exists():
            with contextlib.suppress(ValueError, OSError):
                self.acquire()
                self.release()

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self.handle is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self.handle)
            self.handle = None
