"""Limits on untrusted pickles: checked before loading, for the cost of loading, and afterwards, for the contents."""

import io
import pickletools
import zipfile
from typing import BinaryIO

import torch

from .texts import walk

MOST_VALUES = 10_000_000  # plain values in a checkpoint; a value in two places counts twice
LEGACY_PICKLES = 5  # in torch's format before 1.6: magic number, version, sizes of types, the object, its storages


def check_pickle(path: str, zipped: bool) -> None:
    """Scan a `torch.save` file without building the objects it describes.

    Hashing nested tuples that share their items takes time that doubles with every level, in a single call that cannot
    be interrupted; a `bytearray` allocates any size that the file asks for.

    Raises:
        ValueError: It is not a pickle, asks for a bytearray, or describes more than `MOST_VALUES` values.
    """
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.lower().endswith('data.pkl'):  # torch's reader does not tell upper from lower case
                    check_stream(io.BytesIO(archive.read(name)))
    else:
        with open(path, 'rb') as file:
            for _ in range(LEGACY_PICKLES):
                check_stream(file)


def effect(opcode: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """How many entries an opcode pops from the stack, whether it pops to a mark as well, and how many it pushes."""
    before = opcode.stack_before
    marked = pickletools.markobject in before
    return before.index(pickletools.markobject) if marked else len(before), marked, len(opcode.stack_after)


EFFECTS = {opcode.name: effect(opcode) for opcode in pickletools.opcodes}
GETS, PUTS = ({name for name in EFFECTS if name.endswith(end)} for end in ('GET', 'PUT'))


def check_stream(file: BinaryIO) -> None:
    """Run the stack machine of one pickle on counts: how many values each stack entry expands to."""
    stack: list[int | None] = []  # None: a mark
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in PUTS:
            memo[int(argument)] = stack[-1] or 1
        elif name == 'MEMOIZE':
            memo[len(memo)] = stack[-1] or 1
        elif name in GETS:
            stack.append(memo[int(argument)])
        elif name == 'MARK':
            stack.append(None)
        elif name == 'GLOBAL' and argument.endswith(' bytearray'):
            raise ValueError('it holds a bytearray')
        else:
            fixed, marked, pushed = EFFECTS[name]
            count = 1
            while marked and (item := stack.pop()) is not None:
                count += item
            for _ in range(fixed):
                count += stack.pop() or 0
            if count > MOST_VALUES:
                raise ValueError('it stands for too many values')
            stack += [count] * pushed


def check_limits(contents) -> None:
    """Refuse contents that would grow without limit when printed, copied or compared.

    Raises:
        ValueError: There are more than `MOST_VALUES` values; or a tensor is not plain numbers in memory (sparse,
            quantised, complex, without data), or has more elements than its storage; or an attribute takes the place
            of a method.
    """
    for value in walk(contents, MOST_VALUES):
        if any(not isinstance(name, str) or hasattr(type(value), name) for name in getattr(value, '__dict__', ())):
            raise ValueError('it holds an attribute in the place of a method')
        if isinstance(value, torch.Tensor):
            check_tensor(value)


def check_tensor(value: torch.Tensor) -> None:
    plain = value.layout is torch.strided and value.device.type == 'cpu' and not value.is_nested
    if not plain or value.is_quantized or value.is_complex():
        raise ValueError('it holds a tensor that is not plain numbers')
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError('it holds a tensor with more numbers than are stored')
