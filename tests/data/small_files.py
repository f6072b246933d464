"""Small data sets in the formats of the real ones."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray, kind: int = 0x08) -> bytes:
    return bytes((0, 0, kind, array.ndim)) + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes()


def random_set(total: int, shape: tuple, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (total, *shape), dtype=np.uint8)
    return images, rng.permutation(np.arange(total) % num_classes).astype(np.uint8)


def write_idx(folder: Path, packed: bool, total: int = 40, seed: int = 0) -> dict:
    """The four files of an MNIST-like set; returns {'train': (images, labels), 'test': ...}."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for split, part, count in (('train', 'train', total), ('test', 't10k', total // 2)):
        parts[split] = random_set(count, (28, 28), 10, seed + count)
        for array, name in zip(parts[split], ('images-idx3', 'labels-idx1'), strict=True):
            data = idx_bytes(array)
            path = folder / f'{part}-{name}-ubyte{".gz" if packed else ""}'
            path.write_bytes(gzip.compress(data) if packed else data)
    return parts


def write_cifar(root: Path, num_classes: int, protocol: int = 2, keys=str.encode, total: int = 20) -> dict:
    """CIFAR-10 or CIFAR-100 in its own format; returns {'train': (images [N, 32, 32, 3], labels), 'test': ...}."""
    ten = num_classes == 10
    folder = root / ('cifar-10-batches-py' if ten else 'cifar-100-python')
    folder.mkdir(parents=True)
    files = {
        'train': [f'data_batch_{i}' for i in range(1, 6)] if ten else ['train'],
        'test': ['test_batch'] if ten else ['test'],
    }
    parts = {}
    for split, names in files.items():
        images, labels = random_set(total * len(names), (3, 32, 32), num_classes, len(names))
        for i, name in enumerate(names):
            part = slice(i * total, (i + 1) * total)
            batch = {
                'data': images[part].reshape(total, 3072),
                'labels' if ten else 'fine_labels': labels[part].tolist(),
                'filenames': ['a.png'] * total,
            }
            with open(folder / name, 'wb') as file:
                pickle.dump({keys(key): value for key, value in batch.items()}, file, protocol)
        parts[split] = images.transpose(0, 2, 3, 1), labels
    meta = {keys('label_names' if ten else 'fine_label_names'): [keys(f'class{i}') for i in range(num_classes)]}
    with open(folder / ('batches.meta' if ten else 'meta'), 'wb') as file:
        pickle.dump(meta, file, protocol)
    return parts


def python2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch of CIFAR-10 as Python 2 pickled the published one: all its strings are byte strings.

    Args:
        images: uint8, [N, 3072], with N below 256.
        labels: Classes of the images.
    """

    def string(data: bytes) -> bytes:
        return b'T' + struct.pack('<i', len(data)) + data

    array = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85' + string(b'b') + b'\x87R'
    dtype = b'cnumpy\ndtype\n' + string(b'u1') + b'K\x00K\x01\x87R(K\x03' + string(b'|')
    dtype += b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
    array += b'(K\x01K' + bytes([len(images)]) + b'M\x00\x0c\x86' + dtype + b'\x89' + string(images.tobytes()) + b'tb'
    numbers = b''.join(b'K' + bytes([label]) for label in labels)
    return b'\x80\x02}(' + string(b'labels') + b'](' + numbers + b'e' + string(b'data') + array + b'u.'
