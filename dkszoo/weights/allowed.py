"""The objects that a checkpoint's pickle may hold, and loading one with only these."""

import argparse
import pickle
import threading
from collections.abc import Callable

import numpy as np
import torch


class NumberType:
    """Stands for the dtype of a NumPy scalar in a file: only that of a number, whose state is its byte order.

    NumPy's own would allocate any size that the file asks for, and take any flags.
    """

    def __init__(self, kind: str, *_):
        self.dtype = np.dtype(kind)
        if self.dtype.kind not in 'biuf':
            raise pickle.UnpicklingError(f'a scalar of {self.dtype}')

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(state[1])


def number(kind: NumberType, data: bytes | str) -> np.generic:
    """A NumPy scalar; one that Python 2 pickled has a text."""
    return np.frombuffer(data.encode('latin1') if isinstance(data, str) else data, kind.dtype)[0]


# Other projects' checkpoints contain NumPy scalars (accuracies), timm's an argparse.Namespace. Else only what torch and
# the process itself allow.
ALLOWED = [
    argparse.Namespace,
    (NumberType, 'numpy.dtype'),
    (number, 'numpy.core.multiarray.scalar'),
    (number, 'numpy._core.multiarray.scalar'),
]

ALLOWING = threading.Lock()


def load(path: str):
    """The contents of a pickle that holds only data. torch's allow-list is global, so it is changed under a lock."""
    with ALLOWING:  # of two entries of a name chance would choose, so ours replace others
        theirs, names = torch.serialization.get_safe_globals(), set(map(name_of, ALLOWED))
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*(kind for kind in theirs if name_of(kind) not in names), *ALLOWED])
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(theirs)


def name_of(allowed: Callable | tuple[Callable, str]) -> str:
    """The name in pickles of an entry of torch's allow-list."""
    return allowed[1] if isinstance(allowed, tuple) else f'{allowed.__module__}.{allowed.__qualname__}'
