"""Weights that are not packaged: downloaded once, converted, and verified at every use."""

import contextlib
import glob
import http.client
import logging
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import safetensors.torch
import timm
import torch
from tqdm import tqdm

from .card import card_path, check_tag, read_card, read_own_card, write_card
from .durable import sha256, write_durably
from .identify import identify, read_any
from .texts import with_hint

_logger = logging.getLogger(__name__)

MIRROR = 'DKSZOO_WEIGHTS'  # environment variable with a folder or URL to get the files from
DRIVE = 'https://drive.usercontent.google.com/download?id={}&export=download&confirm=t'  # without the virus-scan page
TIMEOUT = 30.0  # seconds without a byte
LONGEST = 3 * 3600.0  # seconds for one download
MOST_BYTES = 1 << 30  # of one file; the largest published one has 241 MB
STALE = 24 * 3600.0  # seconds after which the remains of a killed download are removed
CHUNK = 1 << 20


def cached(name: str, cache_dir: str | os.PathLike | None) -> Path:
    """Get the weights of a tag that is not packaged, from the cache or by download, and verify their checksums.

    Args:
        name: 'arch.tag' of a dkszoo model whose configuration has a url.
        cache_dir: Folder of the cache; None: torch.hub's `checkpoints`.

    Returns:
        A .safetensors file with its card beside it.

    Raises:
        ValueError: The file cannot be downloaded, holds another network, or is not the one of the first download.
    """
    folder = Path(cache_dir or Path(torch.hub.get_dir()) / 'checkpoints')
    path = folder / f'{name}.safetensors'
    has_card = card_path(path).is_file()
    if not (path.is_file() and has_card):
        known = recorded_hash(path) if has_card else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder, name)
            with tempfile.TemporaryDirectory(prefix=f'.{name}.', dir=folder) as temporary:
                install(name, path, Path(temporary), known)
        except OSError as error:
            raise ValueError(f'cannot store weights in {str(folder)!r}: {error} (set TORCH_HOME)') from error
    try:
        check_tag(read_card(path), name)
    except ValueError as error:
        raise ValueError(with_hint(error, f'delete {str(path)!r} to have it downloaded again')) from error
    return path


def sweep(folder: Path, name: str) -> None:
    """Remove what a killed download left, once it is too old to be still running."""
    for rest in folder.glob(f'.{glob.escape(name)}.*'):
        with contextlib.suppress(OSError):  # another process removed it, or it is another user's
            if time.time() - rest.stat().st_mtime > STALE:
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


def recorded_hash(path: Path) -> str:
    """SHA-256 of the published file at the first download, as recorded in the card.

    Raises:
        ValueError: The card is damaged.
    """
    try:
        return read_own_card(path)['source']['sha256']
    except (ValueError, KeyError, TypeError) as error:
        card = str(card_path(path))
        raise ValueError(f'{card!r} does not record the first download (delete it to start afresh)') from error


def install(name: str, path: Path, temporary: Path, known: str | None) -> None:
    """Fetch the published file of a tag, convert it, and write `path` and its card.

    Args:
        name: 'arch.tag'.
        path: The .safetensors to write.
        temporary: A folder for the download.
        known: SHA-256 of the published file; None if not known yet.

    Raises:
        ValueError: The file cannot be downloaded, holds another network, or has another SHA-256.
    """
    cfg = timm.models.get_pretrained_cfg(name)
    source, file = fetch(name, cfg.url, temporary)
    digest = sha256(file)
    if known not in (None, digest):
        raise ValueError(
            f'{source!r} has SHA-256 {digest}, but at the first download it was {known} '
            f'(delete {str(card_path(path))!r} if the new one is right)'
        )
    try:
        contents = read_any(file)
    except ValueError as error:
        reason = str(error).replace(str(file), source)
        raise ValueError(f'{reason} (try again, or name a mirror in {MIRROR})') from error
    converted = identify(contents, repr(source), cfg.architecture)
    expected = {'num_classes': cfg.num_classes, 'in_chans': cfg.input_size[0]}
    if converted.model_kwargs != expected:
        raise ValueError(f'{source!r} holds a network with {converted.model_kwargs}, not {expected} (use another file)')
    state = {key: value.contiguous() for key, value in converted.backbone.items()}
    content = safetensors.torch.save(state, {'format': 'pt'})  # save_file's mode is 0600
    write_durably(path, lambda part: part.write_bytes(content))
    keys = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
    card = {
        'arch': cfg.architecture,
        'model_args': expected,
        'tag': cfg.tag,
        'data': {key: getattr(cfg, key) for key in keys},
        'origin': cfg.origin_url,
        'source': {'from': source, 'sha256': digest},
        'sha256': sha256(path),
    }
    write_card(path, card)


def fetch(name: str, url: str, folder: Path) -> tuple[str, Path]:
    """Get the published file of a tag, from the mirror if there is one: returns its source's name and its path.

    Raises:
        ValueError: The file is missing or cannot be downloaded.
    """
    mirror = os.environ.get(MIRROR, '')
    if mirror and '://' not in mirror:
        file = Path(os.path.expanduser(mirror)) / f'{name}.pth'
        if not file.is_file():
            raise ValueError(f'no file {str(file)!r} ({MIRROR} names {mirror!r} as the folder of weights)')
        return str(file), file
    if mirror:
        url = f'{mirror.rstrip("/")}/{name}.pth'
    elif url.startswith('gdrive:'):
        url = DRIVE.format(url.removeprefix('gdrive:'))
    file = folder / f'{name}.pth'
    _logger.info('downloading %s from %s', name, url)
    try:
        download(url, file)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f'cannot download {url!r}: {reason} (try again, or name a mirror in {MIRROR})') from error
    return url, file


def download(url: str, file: Path) -> None:
    """Download a URL to a file.

    Raises:
        ValueError: It is a web page, incomplete, or too large or slow (`MOST_BYTES`, `LONGEST`).
        OSError: The server does not answer, or the connection broke.
        http.client.HTTPException: The answer is not valid HTTP.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(file, 'wb') as out:
        if response.headers.get_content_type() == 'text/html':
            raise ValueError('the server sent a web page instead of the file')
        announced = response.headers.get('Content-Length')
        total = int(announced) if announced else None
        if total is not None and not 0 <= total <= MOST_BYTES:
            raise ValueError(f'the server announces {total} bytes')
        began = time.monotonic()
        with tqdm(total=total, desc=file.stem, unit='B', unit_scale=True, leave=False, disable=None) as bar:
            while chunk := response.read1(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
                if out.tell() > MOST_BYTES or time.monotonic() - began > LONGEST:
                    raise ValueError('the download does not end')
        if total is not None and out.tell() != total:
            raise ValueError(f'the connection ended after {out.tell()} of {total} bytes')
