"""Atomic file writes: write a temporary file, flush it to disk, check it, rename it, sync the folder."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_durably(
    path: str | os.PathLike, write: Callable[[Path], object], check: Callable[[Path], object] | None = None
) -> None:
    """Replace `path` with what `write` puts into a temporary file beside it.

    The old file stays until the new one is on disk and has passed `check`. On any error the old file is unchanged and
    the temporary one is removed; an OSError names the file.

    Args:
        path: The file to replace; its folder must exist.
        write: Fills the file at the given path.
        check: Reads the file back, and raises if it is bad.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    temporary.open('xb').close()
    try:
        write(temporary)
        sync(temporary)
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and not error.filename:  # a write does not name its file
            error.filename = str(path)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace a text file durably."""
    write_durably(path, lambda temporary: temporary.write_text(text, encoding='utf-8'))


def sync(path: Path) -> None:
    """Flush a file or a folder to disk; a no-op for folders where the system cannot do it."""
    folder = path.is_dir()
    if folder and os.name == 'nt':
        return
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # Windows only flushes writable handles
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):  # EACCES: may not be read
            raise


def temporary_beside(path: Path) -> Path:
    """A unique name in the same folder, for a file that will be renamed to `path`."""
    return path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
