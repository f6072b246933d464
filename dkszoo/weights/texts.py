"""YAML and JSON texts, possibly untrusted, as plain values."""

import argparse
import json
import re
from collections.abc import Iterator

import yaml

MOST_VALUES = 100_000  # in one YAML text; with aliases a few lines can expand to more than any memory holds


# PyYAML implements YAML 1.1, which reads 1e-3 and 1.5e3 as strings; in YAML 1.2, JSON and Python they are numbers.
EXPONENT = re.compile(r'[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$')


class Loader(yaml.SafeLoader):
    """Reads YAML's plain values, with 1e-3 as a number."""


class Dumper(yaml.SafeDumper):
    """Writes plain values, quoting strings that `Loader` would read as numbers."""


for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver('tag:yaml.org,2002:float', EXPONENT, list('-+.0123456789'))


def parse_yaml(text: str):
    """The plain value of a YAML text.

    Raises:
        ValueError: Invalid YAML, a tag that denotes an object, or more than `MOST_VALUES` values.
    """
    try:
        value = yaml.load(text, Loader)
    except Exception as error:  # PyYAML's constructors leak Python's errors: a KeyError for `!!bool maybe`
        where = f', line {error.problem_mark.line + 1}' if getattr(error, 'problem_mark', None) else ''
        raise ValueError(f'{getattr(error, "problem", None) or first_line(error)}{where}') from error
    for _ in walk(value, MOST_VALUES):
        pass
    return value


def dump_yaml(value, **style) -> str:
    """The YAML text of a plain value, keys in their order; `parse_yaml` restores the value."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, **style)


def walk(contents, most: int) -> Iterator:
    """Iterate over all values in nested containers, keys included; a value in two places is yielded twice.

    Raises:
        ValueError: There are more than `most`.
    """
    left, count = [contents], 0
    while left:
        value, count = left.pop(), count + 1
        if count > most:
            raise ValueError('it stands for too many values')
        yield value
        if isinstance(value, dict):
            left += value.keys()
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value
        elif isinstance(value, argparse.Namespace):
            left += vars(value).values()


def parse_json(text: str):
    """The value of a JSON text.

    Raises:
        ValueError: Invalid JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(first_line(error)) from error


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def with_hint(error: Exception, hint: str) -> str:
    """An error's text with `hint` added to the hint in brackets that it ends with, if any."""
    text = str(error)
    return f'{text[:-1]}; {hint})' if text.endswith(')') else f'{text} ({hint})'
