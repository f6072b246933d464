"""Custom designs: a dict, or a YAML or JSON file or text with one, instead of a name."""

import difflib
from collections.abc import Sequence

from .designs import HEADS, KINDS, BranchSpec
from .probe import Probe
from .taps import resolve_taps

KEYS = ('tap', 'kind', 'stages', 'head')
MOST_BLOCKS = 10_000  # per stage
LARGEST_WIDTH = 100.0


def is_text_or_file(design: str) -> bool:
    """Whether a design is given as the name of a file, or as its contents."""
    return design.startswith('{') or design.endswith(('.yaml', '.yml', '.json'))


def read_specs(design: dict, probe: Probe, taps: Sequence[int | str] | int | str | None) -> list[BranchSpec]:
    """The branches of a custom design for a network.

    Args:
        design: {'branches': [{'tap': 'layer2', 'kind': 'own', 'stages': [{'blocks': 3, 'width': 1.0}, ...],
            'head': 'fc'}, ...]}, and optionally a 'name'; shallow to deep. Only `tap` is required. A stage may also be
            a number: its blocks, at width 1.
        probe: The network.
        taps: Taps that replace the design's own, one per branch; None: its own.

    Raises:
        ValueError: An unknown key (names the nearest), or a missing, unknown or invalid value.
    """
    for key in design:
        nearest(key, ('name', 'branches'), 'key of a design')
    if not isinstance(design.get('name', ''), str):
        raise ValueError(f'the name of a design must be a string, got {design["name"]!r}')
    entries = design.get('branches')
    if not isinstance(entries, list | tuple) or not entries or not all(isinstance(e, dict) for e in entries):
        raise ValueError("a design needs 'branches', a list, one entry per branch, such as {tap: 1, stages: [3, 2]}")
    if taps is None:
        own = [entry.get('tap') for entry in entries]
        if None in own:
            raise ValueError(f'branch {own.index(None) + 1} of the design has no tap (an index or a module name)')
        order = [resolve_taps(probe.backbone, [tap])[0] for tap in own]
        if order != sorted(set(order)):
            raise ValueError(f'the branches of a design must go shallow to deep, each with its own tap; got {own}')
    else:
        order = resolve_taps(probe.backbone, taps)
        if len(order) != len(entries):
            raise ValueError(f'the design has {len(entries)} branches, but {len(order)} taps are given')
    return [read_branch(entry, tap) for entry, tap in zip(entries, order, strict=True)]


def read_branch(entry: dict, tap: int) -> BranchSpec:
    for key in entry:
        nearest(key, KEYS, 'key of a branch')
    stages = entry.get('stages', ())
    kind = nearest(entry.get('kind', 'own' if stages else 'none'), KINDS, 'kind of stages')
    if not isinstance(stages, list | tuple):
        raise ValueError(f'the stages of a branch must be a list, got {stages!r}')
    if bool(stages) == (kind in ('mirror', 'none')):
        raise ValueError(f'a branch of kind {kind!r} {"has no" if stages else "needs"} stages')
    head = nearest(entry.get('head', 'fc'), HEADS, 'head')
    if kind == 'mirror' and head != 'fc':
        raise ValueError("a branch of kind 'mirror' ends in a copy of the main head (leave head out)")
    return BranchSpec(tap, kind, tuple(map(read_stage, stages)), head)


def read_stage(stage) -> tuple:
    """(blocks, width) of one stage."""
    stage = stage if isinstance(stage, dict) else {'blocks': stage}
    for key in stage:
        nearest(key, ('blocks', 'width'), 'key of a stage')
    blocks, width = stage.get('blocks'), stage.get('width', 1.0)
    rows = blocks if isinstance(blocks, list | tuple) else [blocks]
    if not rows or not all(type(row) is int and 1 <= row <= MOST_BLOCKS for row in rows):
        text = f'blocks of a stage must be a whole number of at least 1, at most {MOST_BLOCKS}, or one per row'
        raise ValueError(f'{text}; got {blocks!r}')
    if type(width) not in (int, float) or not 0 < width <= LARGEST_WIDTH:
        raise ValueError(f'the width of a stage must be a positive factor, at most {LARGEST_WIDTH:g}, got {width!r}')
    return tuple(rows) if isinstance(blocks, list | tuple) else blocks, float(width)


def write_specs(specs: Sequence[BranchSpec], name: str | None) -> dict:
    """The inverse of `read_specs`: plain data for records."""
    branches = []
    for spec in specs:
        stages = [
            {'blocks': list(blocks) if isinstance(blocks, tuple) else blocks, 'width': width}
            for blocks, width in spec.stages
        ]
        branches.append({'tap': spec.tap, 'kind': spec.kind, 'stages': stages, 'head': spec.head})
    return {**({'name': name} if name else {}), 'branches': branches}


def nearest(value, valid, what: str):
    """Return `value` if it is valid, else raise ValueError with the nearest valid one."""
    if not isinstance(value, str) or value not in valid:
        near = difflib.get_close_matches(str(value), valid, 1)
        raise ValueError(f'unknown {what} {value!r} (choose {" or ".join(near or valid)})')
    return value
