"""What is shipped: the citation, the sdist, and a wheel that works where there is no clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import dkszoo
from dkszoo.deploy.citations import PAPERS

ROOT = Path(__file__).parent.parent
NOT_SOURCES = ('.git', '.venv', 'venv', 'build', 'dist', 'runs', '*.egg-info', '__pycache__', '.*_cache')


def test_citation_names_this_version_and_both_papers():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()
    assert str(citation['version']) == dkszoo.__version__
    assert [(r['title'], r['year'], r['url']) for r in citation['references']] == [
        (p.title, p.year, f'https://arxiv.org/abs/{p.arxiv}') for p in (PAPERS['dks'], PAPERS['dskd'])
    ]


def not_sources(folder: str, names: list[str]) -> set[str]:
    ignored = shutil.ignore_patterns(*NOT_SOURCES)(folder, names)
    return ignored if Path(folder) == ROOT else ignored - {'runs'}  # published runs are sources


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel of this tree, made from a copy."""
    place = tmp_path_factory.mktemp('build')
    shutil.copytree(ROOT, place / 'source', ignore=not_sources)
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', place / 'dist', place / 'source']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / 'dist'


def sources(*tops: str) -> set[str]:
    found = (path for top in tops for path in [ROOT / top, *(ROOT / top).rglob('*')])
    return {str(p.relative_to(ROOT)) for p in found if p.is_file() and '__pycache__' not in p.parts}


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_file(built):
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        names = set(wheel.namelist())
    assert {name for name in names if '.dist-info/' not in name} == sources('dkszoo')
    assert {'dkszoo/py.typed', 'dkszoo/papers/recipes/quickstart.yaml', 'dkszoo/papers/tables/dks-table1.csv'} <= names
    with tarfile.open(next(built.glob('*.tar.gz'))) as sdist:
        names = {name.partition('/')[2] for name in sdist.getnames()}
    tops = (
        'dkszoo',
        'tests',
        'docs',
        'benchmarks',
        'examples',
        'README.md',
        'LICENSE',
        'CITATION.cff',
        'train.py',
        'hubconf.py',
    )
    assert sources(*tops) <= names


@pytest.mark.slow
def test_wheel_trains_validates_and_exports_where_there_is_no_clone(built, tmp_path):
    """In a fresh environment that has nothing of ours but the wheel; the dependencies are those of this one."""
    venv.create(tmp_path / 'venv', with_pip=False)
    python = tmp_path / 'venv' / 'bin' / 'python'
    ask = [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))']
    packages = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    install = [sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index']
    subprocess.run([*install, next(built.glob('*.whl'))], check=True, capture_output=True)
    place = tmp_path / 'place'
    place.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}

    def run(*argv) -> str:
        environment['OMP_NUM_THREADS'] = '1'
        done = subprocess.run(list(argv), cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = tmp_path / 'venv' / 'bin' / 'dkszoo'
    assert run(python, '-c', 'import dkszoo; print(dkszoo.__file__)').startswith(str(packages))
    assert run(command, '--version').strip() == f'dkszoo {dkszoo.__version__}'
    short = ('--epochs', '2', '--train-num-samples', '400', '--device', 'cpu')
    run(command, 'train', '--config', 'quickstart', *short, '--export', 'digits.safetensors')
    logged = json.loads((place / 'runs' / 'quickstart' / 'run.json').read_text())['result']['best']['top1']
    for file in ('digits.safetensors', 'runs/quickstart/model_best.pth.tar'):
        table = run(command, 'validate', '--checkpoint', file, '--device', 'cpu')
        assert json.loads(table.splitlines()[-1])['top1'] == logged
    for target in (('digits.onnx',), ('digits.pt2',), ('--hub-dir', 'hub')):
        assert 'verified: strict load' in run(command, 'export', 'runs/quickstart/model_best.pth.tar', *target)
    assert run(command, 'reproduce', '--help')
