"""run.json, and running it again."""

import json
import platform
import subprocess

import pytest
import timm
import torch

from benchmarks.reliability.runs import FOLDER, MIXED, PLAIN, outcome, reference, start, wait
from dkszoo.engine import record
from dkszoo.engine.checkpoint import BEST, LAST, read_checkpoint, state_hash

SHORT = (*PLAIN, '--epochs', '1', '--warmup-epochs', '0', '--recovery-interval', '1000')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run folder of SHORT, and what it was made in."""
    cwd = tmp_path_factory.mktemp('finished')
    assert wait(start(SHORT, cwd)) == 0
    return cwd


def test_run_json_holds_what_a_repetition_needs(finished):
    record = json.loads((finished / FOLDER / 'run.json').read_text())
    assert record['argv'] == ['train.py', *SHORT[1:]]
    assert record['settings']['epochs'] == 1
    assert record['settings']['num_classes'] == 10  # resolved
    assert record['threads'] == 1
    assert record['processes'] == 1
    assert record['seed'] == 42
    assert record['versions']['torch'] == torch.__version__
    assert record['versions']['timm'] == timm.__version__
    assert record['versions']['python'] == platform.python_version()
    assert record['device'].startswith('cpu (')
    assert len(record['dataset_sha256']) == 64
    assert [record[f'{part}_images'] for part in ('train', 'val', 'test')] == [100, 143, 359]
    assert record['git_commit'] is None or len(record['git_commit'].removesuffix('-dirty')) == 40
    assert record['started'] <= record['ended']
    assert set(record['result']) == {'best_epoch', 'best_on', 'last', 'best'}
    last = read_checkpoint(finished / FOLDER / LAST)
    states = [last[key] for key in ('state_dict', 'task_state', 'state_dict_ema', 'task_state_ema')]
    assert record['weights_sha256'] == state_hash(*states)
    changed = {**states[0], 'fc.bias': states[0]['fc.bias'].nextafter(torch.tensor(9.0))}
    assert record['weights_sha256'] != state_hash(changed, *states[1:])


def test_replay_is_equal_and_names_what_differs(run_cli, finished, tmp_path):
    path = finished / FOLDER / 'run.json'
    code, out, _ = run_cli('replay', path)
    assert code == 0
    assert out.splitlines()[-1].startswith('equal: the weights have the recorded SHA-256')
    assert outcome_weights(tmp_path / 'replays/tiny') == outcome(finished)['weights_sha256']
    code, out, _ = run_cli('replay', path)
    assert (code, 'finished already (replays/tiny; remove it to run again)' in out) == (0, True)

    record = json.loads(path.read_text())
    record['settings']['device'] = 'cuda:99'
    (tmp_path / 'far').mkdir()
    (tmp_path / 'far/run.json').write_text(json.dumps(record))
    code, out, err = run_cli('replay', 'far/run.json', '--device', 'cpu')
    assert code == 0, err
    record['settings']['device'] = 'cpu'
    record['versions']['timm'], record['weights_sha256'] = '0.0.1', '0' * 64
    record['settings']['lr'] = 0.5
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/run.json').write_text(json.dumps(record))
    code, out, _ = run_cli('replay', 'other/run.json', '--output', 'again')
    assert code == 1
    first, *_, last = out.splitlines()
    assert first == f'not as recorded, the weights may differ: version of timm: 0.0.1, here {timm.__version__}'
    assert last.startswith('different: ')
    assert (tmp_path / 'again/other/run.json').exists()


def test_the_commit_is_that_of_the_package(tmp_path, monkeypatch):
    """Not that of somebody's project in whose folder the package lies."""
    run = lambda *argv: subprocess.run(['git', *argv], cwd=tmp_path, check=True, capture_output=True)  # noqa: E731
    (tmp_path / 'record.py').touch()
    (tmp_path / '.gitignore').write_text('record.py')
    run('init')
    run('add', '.gitignore')
    run('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-m', 'theirs')
    monkeypatch.setattr(record, '__file__', str(tmp_path / 'record.py'))
    assert record.git_commit() is None
    run('add', '--force', 'record.py')
    run('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-m', 'ours')
    commit = record.git_commit()
    assert len(commit) == 40
    (tmp_path / 'record.py').write_text('changed')
    assert record.git_commit() == f'{commit}-dirty'
    monkeypatch.setenv('PATH', str(tmp_path))  # where git is not installed
    assert record.git_commit() is None
    (tmp_path / 'git').write_bytes(b"#!/bin/sh\nprintf 'at M\\374ller' >&2; exit 128\n")
    (tmp_path / 'git').chmod(0o755)
    assert record.git_commit() is None


def test_a_checkpoint_that_is_gone_has_no_hash(tmp_path):
    """A run that goes on needs the file of --resume no more."""
    assert record.hash_of(str(tmp_path / 'gone.pth.tar')) is None


def test_a_replay_writes_into_its_own_folder_alone(run_cli, finished, tmp_path, monkeypatch):
    """Nothing over the export of the recorded run, nor over what --overwrite was given for then."""
    record = json.loads((finished / FOLDER / 'run.json').read_text())
    record['settings'] |= {'export': 'o.safetensors', 'overwrite': True}
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/run.json').write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path / 'mine')
    configs = []
    monkeypatch.setattr('dkszoo.cli.replay.carry_out', lambda config, *_: configs.append(config.to_dict()) or 0)
    assert run_cli('replay', 'run.json')[0] == 0
    own = {'output': 'replays', 'experiment': 'mine', 'export': '', 'overwrite': False}
    assert configs == [{**record['settings'], **own}]


def outcome_weights(folder) -> str:
    return json.loads((folder / 'run.json').read_text())['weights_sha256']


def test_replay_takes_the_recorded_thread_count(run_cli, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    monkeypatch.setattr(torch, 'set_num_threads', lambda n: asked.append(n))
    asked = []
    code, out, _ = run_cli('replay', finished / FOLDER / 'run.json')
    assert (code, asked) == (0, [1])
    assert out.splitlines()[0] == 'thread count: 1 as recorded, not 3, the default of this machine'


def test_replay_mistakes(run_cli, finished, tmp_path):
    def refused(*argv) -> str:
        code, _, err = run_cli('replay', *argv)
        assert code == 2
        return err.splitlines()[-1]

    assert 'cannot read' in refused('nothing.json')
    (tmp_path / 'run.json').write_text('[]')
    assert 'has no settings' in refused('run.json')
    record = json.loads((finished / FOLDER / 'run.json').read_text())
    (tmp_path / 'run.json').write_text(json.dumps({**record, 'weights_sha256': None}))
    assert 'has no weights_sha256 (give the run.json of a finished run)' in refused('run.json')
    (tmp_path / 'run.json').write_text(json.dumps({**record, 'threads': 0}))
    assert 'has 0 threads (1 to 1024 are possible)' in refused('run.json')
    (tmp_path / 'run.json').write_text(json.dumps({**record, 'settings': {**record['settings'], 'epoch': 3}}))
    assert "unknown setting 'epoch' (did you mean 'epochs'?)" in refused('run.json')
    assert 'choose another --output' in refused(finished / FOLDER / 'run.json', '--output', finished / 'runs')


@pytest.mark.parametrize('argv', [PLAIN, pytest.param((*MIXED, '--workers', '0'), marks=pytest.mark.slow)])
def test_the_final_figures_are_validates(run_cli, tmp_path, argv):
    """Every digit, for last and best, with EMA and in another process."""
    assert wait(start(argv, tmp_path)) == 0
    result = json.loads((tmp_path / FOLDER / 'run.json').read_text())['result']
    for name, file in (('last', LAST), ('best', BEST)):
        for flags in ((), ('--no-ema',), ('--per-branch',)):
            code, out, err = run_cli('validate', '--checkpoint', f'{FOLDER}/{file}', '--device', 'cpu', *flags)
            assert code == 0, err
            figures = json.loads(out.splitlines()[-1])
            keys = result[name] if '--per-branch' in flags else ('loss', 'top1', 'top5')
            equal = [figures[key] == result[name][key] for key in keys]
            assert not any(equal[:1]) if '--no-ema' in flags else all(equal)
    assert outcome(tmp_path) == reference(argv)[0]


def test_the_hash_is_of_names_types_and_shapes_too():
    a, b = torch.zeros(2), torch.ones(2)
    hashes = [
        state_hash({'a': a, 'b': b}),
        state_hash({'b': a, 'a': b}),
        state_hash({'a': a, 'c': b}),
        state_hash({'a': a.view(2, 1), 'b': b}),
        state_hash({'a': a.int(), 'b': b}),
        state_hash({'a': a}, {'b': b}),
    ]
    assert len(set(hashes)) == len(hashes)
    assert state_hash({'b': b, 'a': a}) == hashes[0]
