"""Flags from settings: one for every field of `TrainConfig`, grouped by the class that defines it."""

import argparse
import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Collection
from typing import get_args, get_origin

from dkszoo.engine.config import TrainConfig, check_names, flag, negation, plain
from dkszoo.engine.kinds import field_kinds
from dkszoo.papers import list_recipes
from dkszoo.weights import parse_yaml


def add_flags(parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
    """Add the flags of all settings except `leave_out`; the namespace contains only the flags that were given."""
    for part in reversed(TrainConfig.__mro__):
        own = inspect.get_annotations(part)
        fields = [f for f in dataclasses.fields(TrainConfig) if f.name in own and f.name not in leave_out]
        if part is TrainConfig or not fields:
            continue
        group = parser.add_argument_group(part.__name__.removesuffix('Settings').lower())
        for field in fields:
            add_flag(group, field)


def add_config(parser: argparse.ArgumentParser, recipe: str = 'recipe') -> None:
    """Add --config; `recipe` describes the recipe in the help text."""
    names = ', '.join(list_recipes())
    help = f'{recipe} ({names}) or YAML file; flags override it'
    parser.add_argument('-c', '--config', metavar='NAME_OR_FILE', help=help)


def add_flag(group, field: dataclasses.Field) -> None:
    kinds = [kind for kind in field_kinds(field) if kind is not type(None)]
    names = [*([field.metadata['short']] if 'short' in field.metadata else []), flag(field.name)]
    help = field.metadata['help'].replace('%', '%%')
    kwargs = dict(dest=field.name, default=argparse.SUPPRESS, help=help)
    if field.default not in (None, '', False) and 'default' not in help:
        kwargs['help'] += f' (default {show(field.default)})'
    if kinds == [bool]:
        off = negation(field.name)
        if word := field.metadata.get('word'):  # an optional word after the switch itself, not after its negation
            group.add_argument(*names, action=Switch, nargs='?', const=word, metavar=word, **kwargs)
            names, kwargs['help'] = [], f'not {names[-1]}'
        group.add_argument(*names, off, action=Switch, nargs=0, **kwargs)
    elif kinds == [dict]:
        group.add_argument(*names, nargs='+', action=KeyValues, metavar=field.metadata['metavar'], **kwargs)
    else:
        if choices := field.metadata.get('choices'):
            metavar = '{' + ','.join(choices) + '}'
        else:
            metavar = field.metadata.get('metavar') or kind_name(kinds)
        if any(map(is_list, kinds)):
            kwargs |= dict(nargs='+', action=Listing)
        group.add_argument(*names, type=reader(kinds), metavar=metavar, **kwargs)


class Switch(argparse.Action):
    """Sets True by the switch's own name, even if that begins with `no-`, and False by its negation.

    If timm's flag takes a word, `const` is the only one accepted here.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        if values not in ([], self.const):
            parser.error(f'{option_string} {values!r} is unknown, it takes {self.const} or nothing')
        setattr(namespace, self.dest, option_string != negation(self.dest))


class Listing(argparse.Action):
    """A list in timm's form, `1 2 3`, or as one word, `1,2,3`; a single number is accepted too."""

    def __init__(self, *args, type: Callable[[str], object], **kwargs):
        super().__init__(*args, **kwargs)
        self.read = type

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            setattr(namespace, self.dest, self.read(','.join(values)))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def show(value) -> str:
    return ','.join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def kind_name(kinds: list) -> str:
    return {int: 'N', float: 'X', str: 'NAME', tuple: 'X'}[get_origin(kinds[0]) or kinds[0]]


def is_list(kind) -> bool:
    """Whether a type is a list of numbers or names; rows of numbers are written as one word instead."""
    return kind is tuple or (get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is not tuple)


def reader(kinds: list) -> Callable[[str], object]:
    """A function that reads the text of a flag as the first type of its field that fits."""

    def read(text: str):
        for kind in kinds:
            try:
                return read_as(kind, text)
            except ValueError:
                continue
        raise argparse.ArgumentTypeError(f'{text!r} is not {" or ".join(map(describe, kinds))}')

    return read


def describe(kind) -> str:
    if get_origin(kind) is tuple:
        return 'rows of numbers, "0,1;1,0"' if get_origin(get_args(kind)[0]) is tuple else 'a list, "1,2"'
    return {int: 'a whole number', float: 'a number', str: 'a text'}.get(kind, kind.__name__)


def setting_from_text(name: str, text: str):
    """The value of a setting, read as its flag would read it.

    Raises:
        ValueError: No such setting (names the nearest), or the text is not of its type.
    """
    check_names([name])
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    kinds = [kind for kind in field_kinds(fields[name]) if kind is not type(None)]
    if kinds == [bool]:
        if text.lower() not in ('true', 'false'):
            raise ValueError(f'{name}: {text!r} is not true or false')
        return text.lower() == 'true'
    if kinds == [dict]:
        raise ValueError(f'{name} cannot be set for one method (give {flag(name)})')
    try:
        return reader(kinds)(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f'{name}: {error}') from error


def read_as(kind, text: str):
    """`text` as int, float, str, tuple of names or numbers, or rows of numbers.

    Raises:
        ValueError: It is not of that type.
    """
    if kind in (int, float, str):
        return kind(text)
    if kind is tuple:
        return tuple(int(part) if re.fullmatch('-?[0-9]+', part) else part for part in text.split(','))
    item = get_args(kind)[0]
    if get_origin(item) is tuple:
        if ';' not in text:
            raise ValueError(text)
        return tuple(tuple(float(part) for part in row.split(',')) for row in text.split(';'))
    return tuple(item(part) for part in text.split(','))


class KeyValues(argparse.Action):
    """KEY=VALUE arguments as a dict; values are numbers, true, false, None, lists ([1, 2], timm's 1,2), or strings."""

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = {}
        for value in values:
            key, equals, text = value.partition('=')
            if not equals:
                parser.error(f'{option_string} takes KEY=VALUE, got {value!r}')
            try:
                items = read_tuple(text)
                pairs[key] = None if text == 'None' else parse_yaml(text) if items is None else items
            except ValueError as error:
                parser.error(f'{option_string}: {text!r} is not a value: {error}')
        setattr(namespace, self.dest, pairs)


def read_tuple(text: str) -> list | None:
    """A tuple in Python syntax, as a list; None for anything else."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return plain(value) if isinstance(value, tuple) else None
