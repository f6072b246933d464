"""Reading MNIST's idx files, plain or gzipped, without trusting their headers."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from torchvision import datasets

from .images import ArrayImages, how_to_fetch

UINT8 = 0x08
MOST_DEFLATED = 1032  # the largest compression ratio of deflate

FOLDERS = {'torch/mnist': 'MNIST', 'torch/fashion_mnist': 'FashionMNIST', 'torch/kmnist': 'KMNIST'}


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read the array of bytes in an idx file.

    Args:
        path: The file; gzipped if its name ends in .gz.
        ndim: Required number of dimensions.

    Returns:
        uint8 array with `ndim` dimensions.

    Raises:
        ValueError: Not an idx file of bytes with `ndim` dimensions, empty, damaged, or not as long as its header says.
    """
    packed = path.suffix == '.gz'
    try:
        with gzip.open(path) if packed else open(path, 'rb') as file:
            header = file.read(4 + 4 * ndim)
            if header[:4] != bytes((0, 0, UINT8, ndim)):
                raise ValueError(f'{str(path)!r} is not an idx file of bytes in {ndim} dimensions (download it again)')
            if len(header) < 4 + 4 * ndim:
                raise EOFError
            shape = struct.unpack(f'>{ndim}I', header[4:])
            size = math.prod(shape)
            if not size:
                raise ValueError(f'{str(path)!r} is empty: its shape is {shape} (download it again)')
            if size > path.stat().st_size * (MOST_DEFLATED if packed else 1):
                raise EOFError
            data = file.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f'{str(path)!r} is truncated or damaged (download it again)') from error
    if len(data) != size:
        amount = 'too short' if len(data) < size else 'too long'
        raise ValueError(f'{str(path)!r} is {amount} for the shape {shape} in its header (download it again)')
    return np.frombuffer(data, np.uint8).reshape(shape)


def open_idx(name: str, data_dir: str, train: bool) -> ArrayImages:
    """MNIST, Fashion-MNIST or KMNIST from torchvision's root, or from the folder that holds the four files.

    Args:
        name: A key of `FOLDERS`.
        data_dir: torchvision's root, or the folder of the files, plain or gzipped.
        train: The training split, else the test split.

    Raises:
        ValueError: A file is missing, damaged or of another format.
    """
    folder = Path(data_dir) / FOLDERS[name] / 'raw'
    folder = folder if folder.is_dir() else Path(data_dir)
    part = 'train' if train else 't10k'
    advice = how_to_fetch(FOLDERS[name], data_dir)
    files = [find(folder, f'{part}-{kind}-ubyte', advice) for kind in ('images-idx3', 'labels-idx1')]
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    classes = getattr(datasets, FOLDERS[name]).classes
    if len(images) != len(labels):
        raise ValueError(f'{len(images)} images in {str(files[0])!r} but {len(labels)} labels (download both again)')
    if labels.max() >= len(classes):
        raise ValueError(f'{str(files[1])!r} has the label {labels.max()}, but {name!r} has {len(classes)} classes')
    return ArrayImages(images, labels, classes)


def find(folder: Path, name: str, advice: str) -> Path:
    for path in (folder / name, folder / f'{name}.gz'):
        if path.is_file():
            return path
    raise ValueError(f'no file {name} or {name}.gz in {str(folder)!r} ({advice})')
