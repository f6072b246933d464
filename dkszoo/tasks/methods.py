"""Methods as data: a method is a named list of terms."""

import difflib
import logging
from dataclasses import dataclass, field

from .settings import LossSettings
from .terms import TERMS

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Method:
    """How all classifiers learn.

    Attributes:
        terms: Names in `TERMS`.
        design: Branch design when none is asked for; None: no branches.
        defaults: Settings that differ from the terms' own defaults.
    """

    terms: tuple[str, ...]
    design: str | None = None
    defaults: dict = field(default_factory=dict)

    @property
    def uses_branches(self) -> bool:
        return any(TERMS[name].uses_branches for name in self.terms)

    @property
    def uses_teacher(self) -> bool:
        return any(TERMS[name].uses_teacher for name in self.terms)


METHODS = {
    'baseline': Method(terms=('ce',)),
    'ds': Method(terms=('ce', 'ds'), design='auto'),
    'dks': Method(terms=('ce', 'ds', 'synergy'), design='auto'),
}


def get_method(name: str) -> Method:
    """The method `name`, or the sum of several joined by '+': a term that two name counts once.

    Raises:
        ValueError: Unknown name; says the nearest.
    """
    members = []
    for part in name.split('+'):
        if part not in METHODS:
            near = difflib.get_close_matches(part, METHODS, 1)
            raise ValueError(f'unknown method {part!r} (methods: {", ".join(near or METHODS)})')
        members.append(METHODS[part])
    return Method(
        terms=tuple(dict.fromkeys(term for m in members for term in m.terms)),
        design=next((m.design for m in members if m.design), None),
        defaults={key: value for m in reversed(members) for key, value in m.defaults.items()},
    )


def term_settings(method: Method, settings: LossSettings) -> dict[str, dict]:
    """For each term its settings: what was given, else the method's default, else the term's.

    A setting that no term of the method reads does nothing and is named in a warning.
    """
    resolved = {}
    for name in method.terms:
        own = {key: method.defaults.get(key, value) for key, value in TERMS[name].settings.items()}
        resolved[name] = {key: settings.given().get(key, value) for key, value in own.items()}
    known = {key for own in resolved.values() for key in own}
    for key in settings.given():
        if key not in known:
            _logger.warning('%s does nothing here (this method reads %s)', key, ', '.join(sorted(known)))
    return resolved
