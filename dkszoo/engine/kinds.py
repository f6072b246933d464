"""The types that settings may have, from their annotations; for the keys of recipes and for the flags."""

import dataclasses
from types import UnionType
from typing import get_args, get_origin

from .ranges import shorten


def coerce(field: dataclasses.Field, value):
    """`value` as the annotated type of the field: lists become tuples, integers floats where floats are expected.

    Raises:
        ValueError: It has another type.
    """
    kinds = field_kinds(field)
    for kind in kinds:
        try:
            return as_kind(kind, value)
        except (TypeError, OverflowError):
            continue
    names = ' or '.join(dict.fromkeys(said(kind) for kind in kinds if kind is not type(None)))
    raise ValueError(f'{field.name} must be {names}, got {shorten(value)}')


def said(kind) -> str:
    """A type's name in a message; a tuple is a list in recipes."""
    return 'a list' if (get_origin(kind) or kind) is tuple else getattr(kind, '__name__', str(kind))


def as_kind(kind, value):
    """`value` as one type: a class, a tuple of one item type, or a tuple of indices and names.

    Raises:
        TypeError: It has another type.
        OverflowError: It is too large for a float.
    """
    if (get_origin(kind) or kind) is tuple and isinstance(value, list | tuple):
        item, *_ = get_args(kind) or (int | str,)
        return tuple(as_kind(item, v) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) not in (get_args(kind) if isinstance(kind, UnionType) else (kind,)):
        raise TypeError(value)
    return value


def field_kinds(field: dataclasses.Field) -> tuple:
    """The types a field may have, NoneType included."""
    return get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
