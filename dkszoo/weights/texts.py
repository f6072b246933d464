"""YAML and JSON as plain values, whoever wrote them."""

import json
import re
from collections.abc import Iterator

import yaml

MOST_VALUES = 100_000  # in one YAML text; aliases can make a few lines stand for more than any memory holds


# YAML 1.1, which PyYAML has, takes 1e-3 and 1.5e3 for texts; YAML 1.2, JSON and Python take them for numbers.
EXPONENT = re.compile(r'[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$')


class Loader(yaml.SafeLoader):
    """YAML's plain values, with numbers such as 1e-3."""


class Dumper(yaml.SafeDumper):
    """The same: a text that `Loader` would take for a number gets quotes."""


for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver('tag:yaml.org,2002:float', EXPONENT, list('-+.0123456789'))


def parse_yaml(text: str):
    """The plain value of a YAML text.

    Raises:
        ValueError: It is none, has a tag that stands for an object, or stands for more than `MOST_VALUES` values.
    """
    try:
        value = yaml.load(text, Loader)
    except Exception as error:  # PyYAML's constructors raise whatever Python does: `!!bool maybe` a KeyError
        where = f', line {error.problem_mark.line + 1}' if getattr(error, 'problem_mark', None) else ''
        raise ValueError(f'{getattr(error, "problem", None) or first_line(error)}{where}') from error
    for _ in walk(value, MOST_VALUES):
        pass
    return value


def dump_yaml(value, **style) -> str:
    """The YAML text of a plain value, keys in their order; `parse_yaml` gives the value back."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, **style)


def walk(contents, most: int) -> Iterator:
    """Every value in containers in containers, keys too; one that stands in two places comes twice.

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


def parse_json(text: str):
    """The value of a JSON text.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(first_line(error)) from error


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def with_hint(error: Exception, hint: str) -> str:
    """An error's text with what to do about it added to the hint it has, if any."""
    text = str(error)
    return f'{text[:-1]}; {hint})' if text.endswith(')') else f'{text} ({hint})'
