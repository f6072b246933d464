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
        design: The default branch design; None: no branches.
        defaults: Settings that differ from the terms' own defaults.
    """

    terms: tuple[str, ...]
    design: str | None = None
    defaults: dict = field(default_factory=dict)

    @property
    def uses_teacher(self) -> bool:
        return any(TERMS[name].uses_teacher for name in self.terms)

    @property
    def reads(self) -> set[str]:
        """The settings that its terms read."""
        return {key for name in self.terms for key in TERMS[name].settings}

    def resolve(self, settings: LossSettings) -> dict[str, dict]:
        """The settings of each term: those given, else the method's defaults, else the term's own."""
        known = {**self.defaults, **settings.given()}
        return {name: {key: known.get(key, own) for key, own in TERMS[name].settings.items()} for name in self.terms}

    def needs_branches(self, settings: LossSettings) -> bool:
        """Whether any term reads the branches under these settings."""
        return any(TERMS[name].needs_branches(own) for name, own in self.resolve(settings).items())

    def reaches_main(self, settings: LossSettings) -> bool:
        """Whether the main head's classifier learns from any term under these settings."""
        return any(TERMS[name].reaches_main(own) for name, own in self.resolve(settings).items())


METHODS = {
    'baseline': Method(terms=('ce',)),
    'ds': Method(terms=('ce', 'ds'), design='auto'),
    'dks': Method(terms=('ce', 'ds', 'synergy'), design='auto'),
    'kd': Method(terms=('ce', 'kd')),
    'fitnet': Method(terms=('ce', 'hint')),
    'at': Method(terms=('ce', 'at')),
    'vid': Method(terms=('ce', 'vid')),
    'byot': Method(terms=('ce', 'ds', 'self_kd', 'self_feature'), design='bottleneck', defaults={'alpha': 0.7}),
    'dskd': Method(
        terms=('ce', 'kd', 'feature'), design='mirror', defaults={'kd_on': 'both', 'branch_weighting': 'loss'}
    ),
}


def get_method(name: str) -> Method:
    """The method `name`, or the sum of several joined by '+'; a term that they share counts once.

    Raises:
        ValueError: Unknown name (names the nearest).
    """
    if not isinstance(name, str):
        raise ValueError(f"a method is a name, got {name!r} (methods are joined by '+': 'kd+ds')")
    members = []
    for part in name.split('+'):
        if part not in METHODS:
            near = difflib.get_close_matches(part, METHODS, 3)
            hint = f'did you mean {" or ".join(near)}? ' if near else ''
            raise ValueError(f'unknown method {part!r} ({hint}methods: {", ".join(METHODS)})')
        members.append(METHODS[part])
    return Method(
        terms=tuple(dict.fromkeys(term for m in members for term in m.terms)),
        design=next((m.design for m in members if m.design), None),
        defaults={key: value for m in reversed(members) for key, value in m.defaults.items()},
    )


def warn_unread(method: Method, settings: LossSettings) -> None:
    """Warn about every given setting that no term of the method reads."""
    for key in settings.given():
        if key not in method.reads:
            _logger.warning('%s has no effect (this method uses %s)', key, ', '.join(sorted(method.reads)))
