"""A record of what a network computes, for comparing two computations."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Trace(TorchDispatchMode):
    """Give every tensor a number for how it was computed; equal numbers mean equal computations.

    A number stands for an operation, its settings and the numbers of its inputs, down to named parameters and the
    tensor the computation starts from. Traces to be compared share one table. Tensors of unknown origin (not registered
    with the network) get a number of their own, so that they equal nothing.

    Args:
        table: Numbers of all computations so far; grows.
        leaves: Parameters and buffers by name.
        starts: Tensors whose number is known, by number.
    """

    def __init__(self, table: dict, leaves: dict[str, torch.Tensor], starts: dict[int, torch.Tensor]):
        super().__init__()
        self.table = table
        self.numbers: dict[int, int] = {}
        self.kept: list[torch.Tensor] = []  # an id is valid only while its tensor lives
        self.read: set[int] = set()
        for name, tensor in leaves.items():
            self.note(tensor, self.number(('leaf', name)))
        for number, tensor in starts.items():
            self.note(tensor, number)

    def number(self, what) -> int:
        return self.table.setdefault(what, len(self.table))

    def note(self, tensor: torch.Tensor, number: int) -> None:
        self.numbers[id(tensor)] = number
        self.kept.append(tensor)

    def key(self, tensor: torch.Tensor) -> int:
        """The number of a tensor; a new one if its origin is unknown."""
        if id(tensor) not in self.numbers:
            self.note(tensor, self.number(('from nowhere', len(self.table))))
        return self.numbers[id(tensor)]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        values, spec = tree_flatten((args, kwargs))
        inputs = []
        for value in values:
            if isinstance(value, torch.Tensor):
                self.read.add(id(value))
                inputs.append(self.key(value))
            else:
                inputs.append(repr(value))
        operation = (str(func), str(spec), *inputs)
        result = func(*args, **kwargs)
        for i, output in enumerate(tree_flatten(result)[0]):
            if isinstance(output, torch.Tensor):
                self.note(output, self.number((operation, i)))
        return result

    def touched(self, leaves: dict[str, torch.Tensor]) -> set[str]:
        """Names of the tensors in `leaves` that some operation has read."""
        return {name for name, tensor in leaves.items() if id(tensor) in self.read}

    def sources(self, tap: torch.Tensor) -> dict[str, int]:
        """The numbers of the tensors that the layers after a tap [B, C, H, W] may read, by layout.

        A network that works on [B, H, W, C] returns a permuted copy; its next layer reads the original.
        """
        number = self.key(tap)
        found = {'NCHW': number}
        made = {n: what for what, n in self.table.items()}
        while isinstance(operation := made[number][0], tuple):
            name, _, first, *rest = operation
            if 'permute' in name and rest == ['0', '3', '1', '2']:
                return {**found, 'NHWC': first}
            if not any(copying in name for copying in ('clone', 'contiguous')):
                break
            number = first
        return found
