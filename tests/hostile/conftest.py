"""Hostile files are given to the commands in an empty folder; whatever they try must leave no trace."""

from pathlib import Path

import pytest


def tree(folder: Path) -> dict:
    """Everything below a folder: path -> contents of files, None for folders."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob('*'))}


@pytest.fixture
def canary(tmp_path) -> Path:
    """The file that hostile code would make, outside the folder in which the commands run."""
    return tmp_path / 'canary'


@pytest.fixture
def refused(run_cli, tmp_path, canary, monkeypatch):
    """Run a command; see that it refuses in one line, runs nothing and writes nothing; gives that line."""
    place = tmp_path / 'place'
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)

    def run(*argv) -> str:
        before = tree(tmp_path)
        code, out, err = run_cli(*argv)
        assert not canary.exists(), 'code was run'
        assert code == 2, (out, err)
        assert 'Traceback' not in err
        last = err.splitlines()[-1]
        assert last.startswith('dkszoo: error: ')
        assert tree(tmp_path) == before
        return last

    run.place = place
    return run
