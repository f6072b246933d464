"""Files that are whole or not there: write beside, flush to disk, check, rename, sync the folder."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_durably(
    path: str | os.PathLike, write: Callable[[Path], None], check: Callable[[Path], None] | None = None
) -> None:
    """Replace `path` by what `write` puts into a temporary file beside it.

    The old file stays until the new one is on disk and `check` (which raises if it is not good) has passed; whatever
    goes wrong leaves the old file as it was and no temporary one.

    Args:
        path: The file to replace; its folder must exist.
        write: Fills the file at the path it is given.
        check: Reads that file back.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        sync(temporary)
        if check is not None:
            check(temporary)
        temporary.chmod(0o666 & ~current_umask())
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Durably replace a text file."""
    write_durably(path, lambda temporary: temporary.write_text(text, encoding='utf-8'))


def sync(path: Path) -> None:
    """Flush a file or a folder to disk; where folders cannot be flushed they are not."""
    if path.is_dir() and os.name == 'nt':
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
