"""YAML and JSON as plain values, whoever wrote them."""

import json
from collections.abc import Iterator

import yaml

MOST_VALUES = 100_000  # in one YAML text; aliases can make a few lines stand for more than any memory holds


def parse_yaml(text: str):
    """The plain value of a YAML text.

    Raises:
        ValueError: It is none, has a tag that stands for an object, or stands for more than `MOST_VALUES` values.
    """
    try:
        value = yaml.safe_load(text)
    except Exception as error:  # PyYAML's constructors raise whatever Python does: `!!bool maybe` a KeyError
        raise ValueError(first_line(error)) from error
    for _ in walk(value, MOST_VALUES):
        pass
    return value


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
    return (str(error).splitlines() or [type(error).__name__])[0]


def with_hint(error: Exception, hint: str) -> str:
    """An error's text with what to do about it added to the hint it has, if any."""
    text = str(error)
    return f'{text[:-1]}; {hint})' if text.endswith(')') else f'{text} ({hint})'
