"""`dkszoo reproduce`: a paper's table as a grid of runs."""

import argparse
import functools
import shlex
import sys
from pathlib import Path

from dkszoo.engine import TrainConfig
from dkszoo.papers.figure import draw_groups
from dkszoo.papers.grid import run_grid
from dkszoo.papers.records import Record, list_tables, read_table
from dkszoo.papers.report import report
from dkszoo.papers.reproduce import SCALE, cell_work, plan_table
from dkszoo.papers.workload import seconds_per_work

from .flags import add_flags
from .grids import finish, until_stopped
from .main import Parser, tell

DEBIAN = '/usr/share/datasets/fashion-mnist'  # where Debian's package dataset-fashion-mnist installs it


def main(argv: list[str]) -> int:
    """Run what is not finished, then print the results beside the paper's."""
    args = parse(argv)
    everything = read_table(args.table)
    records = chosen(everything, args.row)
    if not records:
        rows = ', '.join(r.row for r in everything)
        raise ValueError(f'table {args.table} has no row {args.row!r} (rows: {rows})')
    overrides = {'data_dir': args.data_dir, 'device': args.device, 'workers': args.workers}
    if args.dataset:
        name = args.dataset
        overrides['dataset'] = name if name == 'digits' or '/' in name else f'torch/{name}'
    dataset = overrides.get('dataset', (SCALE[args.budget] or {}).get('dataset'))
    if dataset == 'torch/fashion_mnist' and not args.data_dir and Path(DEBIAN).is_dir():
        overrides['data_dir'] = DEBIAN
    overrides = {key: value for key, value in overrides.items() if value is not None}
    plans = plan_table(records, args.budget, args.seeds, read_flags, overrides, not args.no_equal_time)
    cells = [c for plan in plans for group in (*plan.cells, plan.equal_time) for c in group]
    for cell in cells:
        TrainConfig.from_dict(cell.settings)
    folder = Path(args.output) / f'reproduce-{args.budget}'  # shared by all tables: they have runs in common
    if args.dry_run:
        return dry_run(cells, folder)
    return until_stopped(lambda: run_and_report(args, plans, cells, folder))


def run_and_report(args: argparse.Namespace, plans: list, cells: list, folder: Path) -> int:
    results = run_grid(cells, folder, args.jobs, lambda text: tell(text, sys.stderr))
    code = finish(cells, results, report(plans, results), folder / f'{args.table}.md')
    draw_groups(plans, results, folder / f'{args.table}.png')
    return code


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog='dkszoo reproduce',
        description="Reproduce a paper's table, or a scaled analogue of it. The runs, TABLE.md and TABLE.png go to "
        'runs/reproduce-BUDGET (--output replaces runs), which all tables share because they have runs in common.',
    )
    add = parser.add_argument
    add('table', metavar='TABLE', help=f'one of {", ".join(list_tables())}')
    add('--row', default='', metavar='R', help='only this row, or the rows of this group, and its baseline')
    add(
        '--budget',
        default='small',
        choices=('small', 'medium', 'full'),
        help='small: smaller networks, a part of Fashion-MNIST, for a CPU; medium: all of Fashion-MNIST, for a GPU; '
        "full: the paper's networks, data set and schedule (default small)",
    )
    add('--seeds', type=int, default=1, metavar='N', help='runs of each row, with seeds 0 to N - 1 (default 1)')
    add('--jobs', type=int, default=1, metavar='N', help='runs at a time (default 1)')
    add('--dataset', default='', metavar='NAME', help="data set (default: the budget's)")
    add('--data-dir', default=None, metavar='DIR', help="its root folder (default of Fashion-MNIST: Debian's)")
    add('--device', default=None, metavar='NAME', help='device (default: the best available)')
    add('-j', '--workers', type=int, default=None, metavar='N', help='loading processes of a run')
    add('--output', default='runs', metavar='DIR', help='where reproduce-BUDGET goes (default runs)')
    add('--no-equal-time', action='store_true', help='leave out the baselines that train for as long as the other rows')
    add('--dry-run', action='store_true', help='print the commands and the core hours they would take, and stop')
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.jobs < 1:
        raise ValueError('--seeds and --jobs must be at least 1')
    return args


def chosen(records: list[Record], row: str) -> list[Record]:
    """The records that `row` selects: by name, by group, or as the baseline of the named row; '' selects all."""
    baselines: dict[str, Record] = {}
    for record in records:
        baselines.setdefault(record.group, record)
    needed = [baselines[record.group] for record in records if record.row == row]
    return [r for r in records if not row or row in (r.row, r.group) or r in needed]


def read_flags(arguments) -> dict:
    """Read train.py flags as settings."""
    return vars(flags_parser().parse_args(list(arguments)))


@functools.cache
def flags_parser() -> Parser:
    """A parser of train.py's flags; cached, because a table needs it for every row."""
    parser = Parser(prog='table', add_help=False, argument_default=argparse.SUPPRESS)
    add_flags(parser)
    return parser


def dry_run(cells: list, folder: Path) -> int:
    """Print one line per run, `python train.py ...`, teachers first, and the predicted hours of all runs."""
    everything = dict.fromkeys([*(need for cell in cells for need in cell.needs), *cells])
    total = 0.0
    for cell in everything:
        print(shlex.join(['python', 'train.py', *cell.command(folder)]))
        total += cell_work(cell)
    hours = total * seconds_per_work() / 3600
    print(f"# {len(everything)} runs, about {hours:.1f} core hours on this machine's CPU", file=sys.stderr)
    return 0
