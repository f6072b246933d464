"""`dkszoo compare`: several methods with the same settings, on your own data."""

import dataclasses
import re
from pathlib import Path

from dkszoo.engine import TrainConfig
from dkszoo.engine.teacher import check_teacher
from dkszoo.papers import read_recipe
from dkszoo.papers.grid import Cell, run_grid
from dkszoo.papers.report import compare_methods
from dkszoo.tasks import METHODS, LossSettings, get_method

from .flags import add_config, add_flags, setting_from_text
from .grids import finish, until_stopped
from .main import Parser, tell

# Settings that `compare` makes itself or leaves out, in every run.
OF_THE_GRID = ('method', 'seed', 'output', 'experiment', 'export', 'resume', 'overwrite')


def main(argv: list[str]) -> int:
    """Train every method with every seed, then print the table; the same command resumes."""
    parser = Parser(
        prog='dkszoo compare',
        description='Train several methods with the same settings and compare them. A method may carry settings of '
        'its own: dks:synergy=top-down. The gain is over the first method, paired by seed. The runs and '
        "table.md go to runs/compare-NAME (--output replaces runs); NAME is the recipe's, else the model's.",
    )
    add = parser.add_argument
    add(
        '--methods',
        default='baseline,ds,dks',
        metavar='M[,M]',
        help=f'{", ".join(METHODS)} or sums such as kd+ds; :setting=value may follow each (default baseline,ds,dks)',
    )
    add('--seeds', type=int, default=3, metavar='N', help='runs of each method, with seeds 0 to N - 1 (default 3)')
    add('--jobs', type=int, default=1, metavar='N', help='runs at a time (default 1)')
    add_config(parser)
    add_flags(parser, leave_out=set(OF_THE_GRID) - {'output'})
    values = vars(parser.parse_args(argv))
    methods, seeds, jobs = split_methods(values.pop('methods')), values.pop('seeds'), values.pop('jobs')
    recipe = values.pop('config')
    if twice := {method for method in methods if methods.count(method) > 1}:
        raise ValueError(f'--methods has {min(twice)!r} twice (leave one out)')
    if seeds < 1 or jobs < 1:
        raise ValueError('--seeds and --jobs must be at least 1')
    settings = {**(read_recipe(recipe) if recipe is not None else {}), **values}
    output = Path(settings.pop('output', 'runs'))
    name = (settings.pop('experiment', None) or TrainConfig.from_dict(settings).model).replace('/', '_')
    cells = {method: [make_cell(method, seed, settings) for seed in range(seeds)] for method in methods}
    return until_stopped(lambda: run_and_report(cells, output / f'compare-{name}', jobs))


def split_methods(text: str) -> list[str]:
    """'baseline,dks:taps=0,1' -> ['baseline', 'dks:taps=0,1']: a part that is not a method continues a list."""
    methods: list[str] = []
    for part in text.split(','):
        is_method = all(name in METHODS for name in part.partition(':')[0].split('+'))
        last = methods[-1].rpartition(':')[2] if methods else ''
        if '=' in last and (part[:1] in '0123456789.-' or (last.startswith('taps=') and not is_method)):
            methods[-1] += f',{part}'
        else:
            methods.append(part)
    return methods


def run_and_report(cells: dict[str, list[Cell]], folder: Path, jobs: int) -> int:
    everything = [c for group in cells.values() for c in group]
    results = run_grid(everything, folder, jobs, lambda text: tell(text, flush=True))
    text = compare_methods({m: [results[c.name] for c in group if c.name in results] for m, group in cells.items()})
    return finish(everything, results, text, folder / 'table.md')


def make_cell(text: str, seed: int, settings: dict) -> Cell:
    """The run of 'method[:key=value...]' with a seed; settings that the method does not use are left out.

    Raises:
        ValueError: Unknown method or setting, a setting that cannot vary by method, or a missing teacher.
    """
    method, *extras = text.split(':')
    spec = get_method(method)
    loss = {f.name for f in dataclasses.fields(LossSettings)}
    own = {key: value for key, value in settings.items() if key not in loss or key in spec.reads}
    if not spec.uses_teacher:
        own = {key: value for key, value in own.items() if not key.startswith('kd_')}
    for extra in extras:
        key, equals, value = extra.partition('=')
        key = key.replace('-', '_')
        if not equals:
            raise ValueError(f'{text!r}: settings of a method are written :key=value')
        if key in OF_THE_GRID:
            raise ValueError(f'{text!r}: {key} cannot be set for one method (leave it out)')
        own[key] = setting_from_text(key, value)
    if not spec.needs_branches(LossSettings(**{key: own[key] for key in own.keys() & loss})):
        own = {key: value for key, value in own.items() if key not in ('branches', 'taps')}
    own = {**own, 'method': method, 'seed': seed}
    check_teacher(TrainConfig.from_dict(own))
    name = re.sub(r'[=/\\]', '_', text.replace(':', '-'))
    return Cell(f'{name}-seed{seed}', {k: v for k, v in own.items() if k not in ('export', 'resume', 'overwrite')})
