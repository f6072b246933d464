"""Reading checkpoints without executing code from them."""

import errno
import os
import pickle
import stat
import zipfile
from pathlib import Path

import safetensors.torch
import torch

from .allowed import load
from .card import card_path, is_card, read_card_file, refuse_graph
from .untrusted import check_limits, check_pickle

DIRECTORY = 0x10  # in a zip entry's external attributes; Python's reader ignores it, torch's does not


def read_pickle(path: str | os.PathLike, legacy: bool = True):
    """The contents of a `torch.save` file, on the CPU.

    Args:
        path: The file.
        legacy: Also read the format of torch before 1.6, which has no checksums.

    Raises:
        ValueError: The file is missing, damaged (checksums are verified), not a checkpoint, holds code, or describes
            more than `untrusted` allows.
        OSError, MemoryError: It cannot be read for reasons outside the file.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise ValueError(
            f'{path!r} is a folder (give a file in it: last.pth.tar of a run, model.safetensors of a hub folder)'
        )
    if not os.path.isfile(path):
        raise ValueError(f'no checkpoint file {path!r}')
    if not os.path.getsize(path):
        raise ValueError(f'checkpoint {path!r} is empty (an interrupted copy or download?)')
    if is_card(card_path(Path(path))):  # an export: say that it is one, not that it is damaged
        refuse_graph(Path(path))
    open(path, 'rb').close()  # raises if it cannot be opened, which `is_zip` would take for "not a zip file"
    if zipped := is_zip(path):
        verify_zip(path)
        if not looks_like_zip(path):
            raise ValueError(
                f'checkpoint {path!r} is damaged (something else stands before the zip file; take another copy)'
            )
    elif path.endswith('.safetensors'):
        raise ValueError(f'{path!r} has weights, but no training state (start from it with --initial-checkpoint)')
    elif not legacy or looks_like_zip(path):
        raise ValueError(f'checkpoint {path!r} is truncated or not a checkpoint (take another copy)')
    try:
        check_pickle(path, zipped)
    except Exception as error:  # a damaged file can raise anything
        reraise_if_not_of_the_file(error)
        reason = f' ({error})' if isinstance(error, ValueError) else ''
        raise ValueError(f'{path!r} is not a checkpoint, or is damaged{reason}') from error
    try:
        contents = load(path)
    except pickle.UnpicklingError as error:
        if 'Unsupported global' in str(error) or 'GLOBAL' in str(error) or 'Unsupported class' in str(error):
            raise ValueError(f'checkpoint {path!r} holds code or objects, not only data; it was not read') from error
        raise ValueError(f'{path!r} is not a checkpoint, or is damaged') from error
    except Exception as error:
        reraise_if_not_of_the_file(error)
        raise ValueError(f'{path!r} is not a checkpoint, or is damaged ({type(error).__name__})') from error
    try:
        check_limits(contents)
    except ValueError as error:
        raise ValueError(f'checkpoint {path!r} cannot be used: {error} (take another file)') from error
    return contents


def reraise_if_not_of_the_file(error: Exception) -> None:
    """Re-raise errors that an intact file could cause too: lack of memory, a disk or server that does not answer."""
    wrong_place = isinstance(error, OSError) and error.errno in (None, errno.EINVAL)  # a bad offset in a damaged file
    if isinstance(error, OSError | MemoryError) and not wrong_place:
        raise error


def is_zip(path: str) -> bool:
    """Whether the file ends like a zip file, even a damaged one."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def looks_like_zip(path: str) -> bool:
    with open(path, 'rb') as file:
        return file.read(4) == b'PK\x03\x04'


def verify_zip(path: str) -> None:
    """Verify every checksum of a zip file, and that torch could have written it.

    Raises:
        ValueError: A checksum does not match; or a record is compressed (it could expand without limit), is a folder or
            a link, occurs twice, has a path outside the file, or is larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            fault = find_fault(archive.infolist(), os.path.getsize(path))
            bad = archive.testzip() if fault is None else None
    except Exception as error:
        reraise_if_not_of_the_file(error)
        raise ValueError(f'checkpoint {path!r} is damaged ({error})') from error
    if bad is not None:
        raise ValueError(f'checkpoint {path!r} is damaged (checksum of {bad!r} does not match)')
    if fault is not None:
        raise ValueError(f'checkpoint {path!r} is damaged ({fault})')


def find_fault(records: list[zipfile.ZipInfo], size: int) -> str | None:
    """What is wrong with the records of a zip file of `size` bytes; None if torch could have written them."""
    for record in records:
        name = record.filename
        inside = name.partition('/')[2] or name  # the part before the / is the file's name at writing
        if name.startswith('/') or '..' in name.split('/') or not inside.isprintable() or set(inside) & set('\\:'):
            return f'{name!r} is not a path inside the file'
        if record.is_dir() or record.external_attr & DIRECTORY:
            return f'{name!r} is marked as a folder'
        if stat.S_ISLNK(record.external_attr >> 16):
            return f'{name!r} is a link'
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            return f'{name!r} is compressed, which torch never does'
    if len({record.filename.lower() for record in records}) < len(records):
        return 'it has a record twice'
    if sum(record.file_size for record in records) > size:
        return 'its records are larger than the file'
    return None


def backbone_state(checkpoint: dict, ema: bool = True) -> dict[str, torch.Tensor]:
    """The backbone's state dict in a training checkpoint of dkszoo or timm, or in a bare state dict.

    Args:
        checkpoint: What `read_pickle` returned.
        ema: Take the averaged weights (EMA) if there are any.

    Raises:
        ValueError: The checkpoint holds no state dict.
    """
    state = checkpoint
    for key in ('state_dict_ema', 'state_dict') if ema else ('state_dict',):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            state = checkpoint[key]
            break
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError('the checkpoint holds no state dict of tensors')
    return dict(state)


def load_strictly(model: torch.nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dict whose keys and shapes must all match.

    Raises:
        ValueError: It does not fit (names the first difference).
    """
    check_shapes({key: value.shape for key, value in model.state_dict().items()}, state, source)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # a type that cannot be converted: after a heading, it says so of every tensor
        raise ValueError(f'{source} does not fit the model: {str(error).splitlines()[:2][-1].strip()}') from error


def check_shapes(own: dict[str, tuple[int, ...]], state: dict[str, torch.Tensor], source: str) -> None:
    """Compare a state dict with the keys and shapes of a model.

    Raises:
        ValueError: It does not fit (names the first difference).
    """
    for key in own:
        if key not in state:
            raise ValueError(f'{source} does not fit the model: it lacks {key!r}')
    for key, value in state.items():
        if key not in own:
            raise ValueError(f'{source} does not fit the model, which has no {key!r}')
        if value.shape != own[key]:
            got, expected = list(value.shape), list(own[key])
            raise ValueError(f'{source} does not fit the model: {key!r} has shape {got}, expected {expected}')


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a .safetensors file, and its card (empty if there is none).

    Raises:
        ValueError: The file is missing or damaged, or not the one the card describes.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'no checkpoint file {str(path)!r}')
    card = read_card_file(path) if card_path(path).is_file() else {}
    return read_tensors(path), card


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, on the CPU.

    Raises:
        ValueError: The file is damaged, or not a .safetensors file.
    """
    try:
        tensors = safetensors.torch.load_file(path)
        check_limits(tensors)
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(f'{os.fspath(path)!r} is not a safetensors file, or is damaged ({error})') from error
    return tensors
