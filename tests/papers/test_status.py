"""The page of results says of every row of both papers what was run, and no more than was run."""

import json
from pathlib import Path

import pytest

from dkszoo.cli.reproduce import read_flags
from dkszoo.papers.grid import Result
from dkszoo.papers.records import list_tables, read_table
from dkszoo.papers.report import report
from dkszoo.papers.reproduce import plan_table
from dkszoo.papers.status import DATA, get_status, status_page

RESULTS = Path(__file__).parents[2] / 'docs/results'


def test_the_page_is_what_the_data_say():
    assert status_page() in (RESULTS / 'README.md').read_text()  # else put what status_page() gives there


@pytest.mark.parametrize('entry', DATA['runs'], ids=lambda entry: f'{entry["results"]}/{entry["table"]}')
def test_what_is_claimed_was_run(entry):
    """Each row claimed stands in its table with a figure, from runs that are there and that would be run today."""
    assert entry['status'] in ('reproduced', 'scaled analogue')
    folder, name = RESULTS / entry['results'], entry['table']
    runs = {cells[0].split(' (T=')[0]: int(cells[4]) for cells in rows((folder / f'{name}.md').read_text())[2:]}
    records = [record for record in read_table(name) if record.row in entry.get('rows', [record.row])]
    assert all(runs[record.row] > 0 for record in records)
    there = {path.stem: json.loads(path.read_text()) for path in (folder / 'runs').glob('*.json')}
    data_dir = next(iter(there.values()))['settings']['data_dir']
    overrides = {'dataset': 'torch/fashion_mnist', 'data_dir': data_dir}
    plans = plan_table(records, entry['budget'], 1, read_flags, overrides, equal_time=False)
    planned = {cell.name for plan in plans for (cell,) in plan.cells}
    assert planned <= there.keys()
    assert all('result' in there[run] and (folder / f'runs/{run}.csv').is_file() for run in planned)


@pytest.mark.parametrize('entry', DATA['runs'], ids=lambda entry: f'{entry["results"]}/{entry["table"]}')
def test_a_published_table_is_what_its_runs_give(entry):
    folder, name = RESULTS / entry['results'], entry['table']
    text = (folder / f'{name}.md').read_text()
    there = {path.stem: Result(json.loads(path.read_text()), 0.0, path) for path in (folder / 'runs').glob('*.json')}
    data_dir = next(iter(there.values())).record['settings']['data_dir']
    overrides = {'dataset': 'torch/fashion_mnist', 'data_dir': data_dir}
    seeds = max(int(cells[4]) for cells in rows(text)[2:])
    plans = plan_table(read_table(name), entry['budget'], seeds, read_flags, overrides, equal_time=True)
    again = report(plans, there)
    assert [cells[:-1] for cells in rows(again)] == [cells[:-1] for cells in rows(text)]  # times are in no record
    assert again.partition('\n\n')[2] == text.rstrip('\n').partition('\n\n')[2]


def rows(text: str) -> list[list[str]]:
    """The cells of the Markdown table in a text, header and rule included."""
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('|')]


def test_every_row_has_a_status():
    for name in list_tables():
        for record in read_table(name):
            status = get_status(record)
            assert status.word in ('reproduced', 'scaled analogue', 'not run')
            assert (status.word == 'reproduced') == (status.why == '')
            assert (status.word == 'not run') == (status.results == '')
