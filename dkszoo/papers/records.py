"""The tables of both papers as records, one a published number."""

import csv
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
        group: Rows of a group compare with its first row, the baseline.
        network: The paper's words for the network.
        model: Our name of it.
        method: Our name of the method.
        recipe: The recipe with the paper's settings.
        flags: What this row sets on top, as train.py flags; the word T stands for each of 1, 2, 5, 10, 20.
        metric: What the number is: 'top1' or 'top1_err' in percent, of a branch with 'branch0_' before it.
        value: The published mean.
        std: Its published standard deviation, or None.
        gain: The published gain over the group's first row, in points of accuracy, or None.
        runs: Over how many runs; None where the paper does not say.
        note: What is odd about it.
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
    """Names of all tables."""
    return sorted(path.stem for path in TABLES.glob('*.csv'))


def read_table(name: str) -> list[Record]:
    """The records of one table, in its order.

    Raises:
        ValueError: No such table (names all).
    """
    path = TABLES / f'{name}.csv'
    if name not in list_tables():
        raise ValueError(f'unknown table {name!r} (tables: {", ".join(list_tables())})')
    records = []
    with open(path, newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            numbers = {key: float(row[key]) if row[key] else None for key in ('value', 'std', 'gain')}
            runs = int(row['runs']) if row['runs'] else None
            records.append(Record(table=name, **{**row, **numbers, 'runs': runs}))
    return records


def remarks(records: list[Record]) -> str:
    """Markdown: what is odd about the published numbers, each remark once behind its rows; '' for nothing."""
    rows: dict[str, list[str]] = {}
    for record in records:
        if record.note:
            rows.setdefault(record.note, []).append(f'`{record.row}`')
    return '\n'.join(f'- {", ".join(names)}: {note}' for note, names in rows.items())
