"""Status of each published number: what has been run, and where the result is."""

from pathlib import Path
from typing import NamedTuple

from dkszoo.weights import parse_yaml

from .records import Record, list_tables, read_table, remarks
from .stats import show

DATA = parse_yaml((Path(__file__).parent / 'status.yaml').read_text(encoding='utf-8'))


class Status(NamedTuple):
    """Status of one record.

    Attributes:
        word: 'reproduced', 'scaled analogue' or 'not run'.
        why: Why it was not run in full; '' if it was.
        results: Folder in docs/results with TABLE.md and the runs; '' if nothing was run.
    """

    word: str
    why: str
    results: str


def get_status(record: Record) -> Status:
    """The status of a record."""
    why = DATA['not_run'].get(record.recipe, DATA['not_run']['default'])
    for entry in DATA['runs']:
        if entry['table'] == record.table and record.row in entry.get('rows', [record.row]):
            full = entry['status'] == 'reproduced'
            return Status(entry['status'], '' if full else why, entry['results'])
    return Status('not run', why, '')


def status_page() -> str:
    """Markdown: for every table its rows, the published numbers and their status."""
    parts = []
    for name in list_tables():
        parts += [f'### {name}', '', '| row | network | method | figure, % | paper | status |', '|' + '---|' * 6]
        reasons: dict[str, None] = {}  # in their order
        for record in (records := read_table(name)):
            word, why, results = get_status(record)
            shown = f'[{word}]({results}/{name}.md)' if results else word
            paper = show(record.value, record.std)
            parts.append(f'| {record.row} | {record.network} | {record.method} | {record.figure} | {paper} | {shown} |')
            reasons |= {why: None} if why else {}
        parts += ['', f'Not run in full: {"; ".join(reasons)}.', ''] if reasons else ['']
        if notes := remarks(records):
            parts += [notes, '']
    return '\n'.join(parts[:-1])
