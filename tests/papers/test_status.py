"""The page of results says of every row of both papers what was run, and no more than was run."""

from pathlib import Path

import pytest

from dkszoo.papers.records import list_tables, read_table
from dkszoo.papers.status import DATA, get_status, status_page

RESULTS = Path(__file__).parents[2] / 'docs/results'


def test_the_page_is_what_the_data_say():
    assert status_page() in (RESULTS / 'README.md').read_text()  # else put what status_page() gives there


@pytest.mark.parametrize('entry', DATA['runs'], ids=lambda entry: entry['results'])
def test_what_is_claimed_was_run(entry):
    """Each row claimed stands in the folder's table with a number of runs and a figure, and its runs are there."""
    assert entry['status'] in ('reproduced', 'scaled analogue')
    folder = RESULTS / entry['results']
    lines = [line.strip('| ').split('|') for line in (folder / 'table.md').read_text().splitlines()[2:]]
    runs = {cells[0].split(' (T=')[0].strip(): int(cells[4]) for cells in lines}
    claimed = entry.get('rows', [record.row for record in read_table(entry['table'])])
    assert all(runs[row] > 0 for row in claimed)
    assert list(folder.glob('*.csv'))
    assert len(list(folder.glob('*.csv'))) == len(list(folder.glob('*.json')))


def test_every_row_has_a_status():
    for name in list_tables():
        for record in read_table(name):
            status = get_status(record)
            assert status.word in ('reproduced', 'scaled analogue', 'not run')
            assert (status.word == 'reproduced') == (status.why == '')
            assert (status.word == 'not run') == (status.results == '')
