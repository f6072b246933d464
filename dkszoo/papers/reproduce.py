"""From a paper's table to the runs that reproduce it, at full scale or as a scaled analogue."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dkszoo.data import data_facts
from dkszoo.engine import FREE
from dkszoo.weights import parse_yaml

from . import read_recipe
from .grid import Cell
from .records import Record
from .workload import work

SCALE = parse_yaml((Path(__file__).parent / 'scale.yaml').read_text(encoding='utf-8'))
TEMPERATURES = (1, 2, 5, 10, 20)
packaged_recipe = functools.cache(read_recipe)  # every run of a table starts from a recipe
TEACHER_RECIPES = {'dskd_mobile': 'dskd'}  # no teacher is a mobile network

# Reads train.py flags into settings; passed in by the command line, whose parser this package may not import.
ReadFlags = Callable[[Sequence[str]], dict]


@dataclass(frozen=True)
class Plan:
    """One record and the runs that reproduce it.

    Attributes:
        record: The published number.
        cells: For each temperature (a single entry if the row has none), one cell per seed.
        equal_time: The group's first row trained for as long as this row takes, one cell per seed; or empty.
    """

    record: Record
    cells: tuple[tuple[Cell, ...], ...]
    equal_time: tuple[Cell, ...] = ()


def plan_table(
    records: Sequence[Record],
    budget: str,
    seeds: int,
    read_flags: ReadFlags,
    overrides: dict,
    equal_time: bool = True,
) -> list[Plan]:
    """The runs of a table.

    Args:
        records: Rows, starting with the baseline of each group.
        budget: 'small', 'medium' or 'full' (scale.yaml).
        seeds: Runs per row.
        read_flags: Reads the rows' flags.
        overrides: Settings that override everything: data set and folder, device, workers.
        equal_time: Also plan the group's first row trained for as long as each other row takes, by predicted work.
    """
    plans, first = [], {}
    for record in records:
        variants = []
        for temperature in TEMPERATURES if 'T' in record.arguments else (None,):
            arguments = [str(temperature) if a == 'T' else a for a in record.arguments]
            extra = read_flags(arguments)
            variants.append(tuple(make_cell(record, extra, budget, seed, overrides) for seed in range(seeds)))
        baseline = first.setdefault(record.group, variants[0])
        equal = ()
        if equal_time and variants[0] != baseline:
            ratio = cell_work(variants[0][0]) / cell_work(baseline[0])
            equal = tuple(long for base in baseline if (long := longer(base, ratio)) is not None)
        plans.append(Plan(record, tuple(variants), equal))
    return plans


def make_cell(record: Record, extra: dict, budget: str, seed: int, overrides: dict) -> Cell:
    """One run of a record; a teacher named in its flags is a run of its own, trained with its own recipe."""
    settings = {**scaled_recipe(record.recipe, budget), **scaled_model(record.model, budget)}
    settings = on_data({**settings, 'method': record.method, **extra, **overrides, 'seed': seed})
    needs = ()
    if teacher := settings.pop('kd_model_name', None):
        own = scaled_recipe(TEACHER_RECIPES.get(record.recipe, record.recipe), budget)
        own = on_data({**own, **overrides, 'seed': seed})
        needs = (named('baseline', {**own, **scaled_model(teacher, budget), 'method': 'baseline'}),)
    return named(record.method, settings, needs)


def on_data(settings: dict) -> dict:
    """Settings that train on all images of a data set which has no more than a budget asks for."""
    images, asked = data_facts(settings['dataset']).num_train, settings.get('train_num_samples')
    return {**settings, 'train_num_samples': None} if images and asked and asked >= images else settings


def named(word: str, settings: dict, needs: tuple[Cell, ...] = ()) -> Cell:
    """A cell whose folder is named by model, method, seed and a hash of its settings and teacher."""
    identity = {key: value for key, value in settings.items() if key not in FREE}
    if identity.get('data_dir'):
        identity['data_dir'] = os.path.normpath(identity['data_dir'])
    if needs:
        identity['teacher'] = [need.name for need in needs]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return Cell(f'{settings["model"]}-{word.replace("+", "_")}-seed{settings["seed"]}-{digest}', settings, needs)


def scaled_recipe(name: str, budget: str) -> dict:
    """A recipe with the length and the data set of a budget.

    Learning-rate drops stay at the same fraction of the training, unless the budget has a schedule of its own.
    """
    settings, scale = dict(packaged_recipe(name)), SCALE[budget]
    settings.pop('experiment')
    if not scale:
        return settings
    if 'sched' in scale['settings']:
        settings = {key: value for key, value in settings.items() if not key.startswith('decay_')}
    settings = stretched(settings, scale['epochs'])
    for key in ('mean', 'std', 'train_crop_mode'):
        settings.pop(key, None)
    return {**settings, 'dataset': scale['dataset'], **scale['settings']}


def stretched(settings: dict, epochs: int) -> dict:
    """Settings for another number of epochs, with drops at the same fraction of the training; epochs count from 1."""
    factor, settings = epochs / settings['epochs'], {**settings, 'epochs': epochs}
    if 'decay_milestones' in settings:
        settings['decay_milestones'] = [1 + max(1, round((e - 1) * factor)) for e in settings['decay_milestones']]
    if 'decay_epochs' in settings:
        settings['decay_epochs'] = max(1, round(settings['decay_epochs'] * factor))
    return settings


def scaled_model(model: str, budget: str) -> dict:
    """The substitute for a network at a budget, as model and model_kwargs.

    Raises:
        ValueError: scale.yaml has none.
    """
    if not SCALE[budget]:
        return {'model': model}
    if model not in SCALE[budget]['models']:
        raise ValueError(f'budget {budget!r} has no stand-in for {model!r} (add one to dkszoo/papers/scale.yaml)')
    return dict(SCALE[budget]['models'][model])


def cell_work(cell: Cell) -> float:
    """The predicted work of a cell, including its teacher's forward passes."""
    return work(cell.settings, cell.needs[0].settings if cell.needs else None)


def longer(cell: Cell, ratio: float) -> Cell | None:
    """The same run with `ratio` times the epochs, drops at the same fraction; None if that adds no epoch."""
    epochs = round(cell.settings['epochs'] * ratio)
    if epochs <= cell.settings['epochs']:
        return None
    return named(f'{cell.settings["method"]}_long', stretched(cell.settings, epochs), cell.needs)
