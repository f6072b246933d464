"""The tables of both papers as records, one per published number."""

import csv
import difflib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

TABLES = Path(__file__).parent / 'tables'


@dataclass(frozen=True)
class Record:
    """One published number.

    Attributes:
        table: Name of the table, such as 'dks-table1'.
        row: Name of the row, unique in the table.
        group: Group of rows that are compared with its first row, the baseline.
        network: The paper's name of the network.
        model: dkszoo's name of the network.
        method: dkszoo's name of the method.
        recipe: The recipe with the paper's settings.
        flags: Additional settings of this row, as train.py flags; the word T stands for each of 1, 2, 5, 10, 20.
        metric: The kind of number: 'top1', 'top5', 'top1_err' or 'top5_err', in percent, with the prefix 'branch0_',
            'branch1_' for a branch.
        value: The published mean.
        std: The published standard deviation, or None.
        gain: The published gain over the group's first row, in points of accuracy, or None.
        runs: Number of runs; None if the paper does not state it.
        note: Remark on an oddity of the number, or ''.
    """

    table: str
    row: str
    group: str
    network: str
    model: str
    method: str
    recipe: str
    flags: str
    metric: str
    value: float
    std: float | None
    gain: float | None
    runs: int | None
    note: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.flags)

    @property
    def figure(self) -> str:
        """The metric in words, such as 'top-5 error' or 'top-1 accuracy, branch 0'."""
        branch, top, error = re.fullmatch(r'(?:branch(\d)_)?top(\d)(_err)?', self.metric).groups()
        return f'top-{top} {"error" if error else "accuracy"}' + (f', branch {branch}' if branch else '')


def list_tables() -> list[str]:
    """The names of all tables."""
    return sorted(path.stem for path in TABLES.glob('*.csv'))


def read_table(name: str) -> list[Record]:
    """The records of a table, in its order.

    Raises:
        ValueError: No such table (names all).
    """
    path = TABLES / f'{name}.csv'
    if name not in list_tables():
        near = difflib.get_close_matches(name, list_tables(), 1)
        hint = f'did you mean {near[0]}? ' if near else ''
        raise ValueError(f'unknown table {name!r} ({hint}tables: {", ".join(list_tables())})')
    records = []
    with open(path, newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            numbers = {key: float(row[key]) if row[key] else None for key in ('value', 'std', 'gain')}
            runs = int(row['runs']) if row['runs'] else None
            records.append(Record(table=name, **{**row, **numbers, 'runs': runs}))
    return records


def remarks(records: list[Record]) -> str:
    """Markdown list of the records' notes, each once, after the names of its rows; '' if there are none."""
    rows: dict[str, list[str]] = {}
    for record in records:
        if record.note:
            rows.setdefault(record.note, []).append(f'`{record.row}`')
    return '\n'.join(f'- {", ".join(names)}: {note}' for note, names in rows.items())
