"""Reading CIFAR's pickles without executing them."""

import io
import pickle
import pickletools
from pathlib import Path

import numpy as np
from torchvision import datasets

from .images import ArrayImages, how_to_fetch

KINDS = {'torch/cifar10': 'CIFAR10', 'torch/cifar100': 'CIFAR100'}  # timm's name -> torchvision's class


class IntegerType:
    """Stands for the dtype of an array, if of integers (of objects, it could hold anything); its state is a byte order.

    NumPy's own would take any flags and sizes from the file.
    """

    def __init__(self, kind: str, *_):
        self.dtype = np.dtype(kind)
        if self.dtype.kind not in 'ui':
            raise pickle.UnpicklingError(f'an array of {self.dtype}')

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(state[1])


def to_bytes(data: bytes | str) -> bytes:
    """Bytes, which Python 2 pickled as what Python 3 takes for a text."""
    return data.encode('latin1') if isinstance(data, str) else data


class IntegerArray:
    """Stands for an array, which the pickle makes empty and then fills; it has no more than the bytes in the file."""

    def __init__(self, *_):
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple):
        _, shape, kind, by_columns, data = state
        self.values = filled_array(to_bytes(data), kind, shape, 'F' if by_columns else 'C')


def filled_array(data: bytes, kind: IntegerType, shape: tuple, order: str) -> np.ndarray:
    """An array in a pickle of protocol 5."""
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def number(kind: IntegerType, data: bytes) -> int:
    """A NumPy scalar."""
    return int(np.frombuffer(to_bytes(data), kind.dtype)[0])


# All names a pickle may use: the parts of integer arrays, each mapped to a safe replacement.
ALLOWED = {
    ('numpy', 'ndarray'): None,  # only handed to _reconstruct
    ('numpy', 'dtype'): IntegerType,
    ('_codecs', 'encode'): lambda text, _: to_bytes(text),  # as Python 3 pickles bytes for Python 2, always as latin1
}
for core in ('numpy.core', 'numpy._core'):
    ALLOWED[f'{core}.multiarray', '_reconstruct'] = IntegerArray
    ALLOWED[f'{core}.multiarray', 'scalar'] = number
    ALLOWED[f'{core}.numeric', '_frombuffer'] = filled_array


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler for plain containers and arrays of integers."""

    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f'{module}.{name}')
        return ALLOWED[module, name]


def check_memo(data: bytes) -> None:
    """Refuse a pickle that numbers more objects than it can hold: the unpickler would allocate room for all."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.endswith('PUT') and int(argument) > len(data):
            raise pickle.UnpicklingError(f'object {argument} in {len(data)} bytes')


def read_cifar_pickle(path: Path) -> dict:
    """Read the dict in a CIFAR file; its keys become strings.

    Raises:
        ValueError: The file is missing, truncated, or holds anything but containers, strings, numbers and arrays
            of integers; nothing in it is executed.
    """
    if not path.is_file():
        raise ValueError(f'no file {path.name} in {str(path.parent)!r} (download it again)')
    try:
        data = path.read_bytes()
        check_memo(data)
        contents = ArrayUnpickler(io.BytesIO(data), encoding='latin1').load()
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) or type(error).__name__
        raise ValueError(f'{str(path)!r} is damaged or not a CIFAR file: {reason} (download it again)') from error
    if not isinstance(contents, dict):
        raise ValueError(f'{str(path)!r} is not a CIFAR file: it holds a {type(contents).__name__} (download it again)')
    found = {key.decode('latin1') if isinstance(key, bytes) else key: value for key, value in contents.items()}
    return {key: value.values if isinstance(value, IntegerArray) else value for key, value in found.items()}


def read_batch(path: Path, key: str, num_classes: int) -> tuple[np.ndarray, list[int]]:
    """Images [N, 32, 32, 3] and labels of one file."""
    contents = read_cifar_pickle(path)
    data, labels = contents.get('data'), contents.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise ValueError(f'{str(path)!r} has no images of 3 x 32 x 32 bytes under "data" (download it again)')
    if not isinstance(labels, list | np.ndarray) or np.ndim(labels) != 1 or len(labels) != len(data) or not len(data):
        raise ValueError(f'{str(path)!r} does not have one label per image under "{key}" (download it again)')
    if not all(isinstance(label, int | np.integer) and 0 <= label < num_classes for label in labels):
        raise ValueError(f'{str(path)!r} has labels that are not 0 to {num_classes - 1} (download it again)')
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), list(labels)


def open_cifar(name: str, data_dir: str, train: bool) -> ArrayImages:
    """CIFAR-10 or CIFAR-100 from torchvision's root, or from the folder that holds its files.

    Args:
        name: A key of `KINDS`.
        data_dir: The folder.
        train: The training split, else the test split.

    Raises:
        ValueError: A file is missing, damaged or of another format.
    """
    kind = getattr(datasets, KINDS[name])  # knows the names of its folder and files
    folder = Path(data_dir) / kind.base_folder
    folder = folder if folder.is_dir() else Path(data_dir)
    meta, key = folder / kind.meta['filename'], kind.meta['key']
    if not meta.is_file():
        raise ValueError(f'no file {meta.name} in {str(folder)!r} ({how_to_fetch(KINDS[name], data_dir)})')
    names = read_cifar_pickle(meta).get(key)
    if not isinstance(names, list) or not all(isinstance(n, str | bytes) for n in names):
        raise ValueError(f'{str(meta)!r} has no list "{key}" (download it again)')
    classes = [n.decode('latin1') if isinstance(n, bytes) else n for n in names]
    under = 'labels' if name == 'torch/cifar10' else 'fine_labels'
    files = kind.train_list if train else kind.test_list
    batches = [read_batch(folder / file, under, len(classes)) for file, _ in files]
    images = np.ascontiguousarray(np.concatenate([images for images, _ in batches]))
    return ArrayImages(images, [label for _, labels in batches for label in labels], classes)
