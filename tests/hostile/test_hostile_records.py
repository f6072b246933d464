"""run.json and log.jsonl of finished runs: what train, compare, reproduce and replay say of damaged ones."""

import json

import pytest
import yaml

from dkszoo.cli.compare import make_cell
from dkszoo.cli.reproduce import read_flags
from dkszoo.engine import TrainConfig, resolve
from dkszoo.engine.record import differences
from dkszoo.papers.grid import Result, read_result

DEEP = '[' * 100000
FLAGS = ('--model', 'cifar_resnet8', '--dataset', 'digits', '--epochs', '1', '--device', 'cpu')
SETTINGS = resolve(TrainConfig(model='cifar_resnet8', dataset='digits', epochs=1, device='cpu')).to_dict()
FIGURES = {'loss': 0.5, 'top1': 90.0, 'top5': 99.0, 'branch0_top1': 80.0}
RESULT = {'best_epoch': 0, 'best_on': 'val', 'last': FIGURES, 'best': FIGURES}
RECORD = {
    'settings': SETTINGS,
    'seed': 42,
    'threads': 1,
    'best_on': 'val',
    'weights_sha256': '0' * 64,
    'result': RESULT,
}
LINE = {'epoch': 0, 'seconds': {'train': 1.0, 'evaluate': 0.5}}


def without(key: str) -> dict:
    return {k: v for k, v in RECORD.items() if k != key}


def result(**changes) -> dict:
    return {**RECORD, 'result': {**RESULT, **changes}}


def best(**changes) -> dict:
    return result(best={**FIGURES, **changes})


# Of these every command says the same.
DAMAGED = {
    'empty result': ({**RECORD, 'result': {}}, 'no best_epoch'),
    'result as list': ({**RECORD, 'result': [1]}, 'no result'),
    'result of nothing': ({**RECORD, 'result': None}, 'no result'),
    'result as text': ({**RECORD, 'result': 'x'}, 'no result'),
    'no best': (result(best=None), "no top1 and top5 of 'best'"),
    'best epoch as text': (result(best_epoch='1'), 'no best_epoch'),
    'best epoch as truth': (result(best_epoch=True), 'no best_epoch'),
    'no best_on': (without('best_on'), 'no best_on'),
    'no top5': (result(last={'top1': 1.0}), "no top1 and top5 of 'last'"),
    'huge': (best(top1=10**400), "a top1 of 'best' that is no percentage"),
    'beyond 100': (best(top1=100.5), "a top1 of 'best' that is no percentage"),
    'not a number': (best(top1=float('nan')), "a top1 of 'best' that is no percentage"),
    'top1 as text': (best(top1='90'), "a top1 of 'best' that is no percentage"),
    'branch': (best(branch0_top1=None), "a branch0_top1 of 'best' that is no percentage"),
    'loss': (best(loss=[]), "a loss of 'best' that is no number"),
    'no settings': (without('settings'), 'no settings'),
    'settings as list': ({**RECORD, 'settings': [1]}, 'no settings'),
    'no seed': (without('seed'), 'no seed'),
    'seed as list': ({**RECORD, 'seed': [1]}, 'no seed'),
    'no hash': (without('weights_sha256'), 'no weights_sha256'),
}
# These train writes anew; the others have nothing to go on with.
TEXTS = {'deep': DEEP, 'text': '"result"', 'list': '["result"]', 'cut off': '{"result": {', 'bytes': '\udcff'}


def write(folder, record, log=(LINE,)) -> None:
    folder.mkdir(parents=True)
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / 'run.json').write_text(text, errors='surrogateescape')
    (folder / 'log.jsonl').write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in log))


@pytest.mark.parametrize('name', DAMAGED)
def test_result_that_all_refuse(refused, name):
    record, says = DAMAGED[name]
    for folder in ('runs/x', 'runs/compare-cifar_resnet8/baseline-seed0'):
        write(refused.place / folder, record)
    (refused.place / 'runs/x/args.yaml').write_text(yaml.safe_dump(SETTINGS))
    train = refused('train', *FLAGS, '--experiment', 'x')
    assert says in train
    assert train.endswith('(--overwrite starts anew, or delete the folder)')
    assert "'runs/x/run.json'" in train
    line = refused('compare', '--methods', 'baseline', '--seeds', '1', *FLAGS)
    assert says in line
    assert line.endswith("(delete 'runs/compare-cifar_resnet8/baseline-seed0' to have it run again)")
    assert "baseline-seed0/run.json'" in line
    assert says in refused('replay', 'runs/x/run.json')


def test_whole_result(run_cli, tmp_path):
    """The record that the damaged ones are made of is one."""
    write(tmp_path / 'runs/x', RECORD)
    (tmp_path / 'runs/x/args.yaml').write_text(yaml.safe_dump(SETTINGS))
    code, out, err = run_cli('train', *FLAGS, '--experiment', 'x')
    assert code == 0, err
    assert 'best epoch, 1 on val: top-1 90.00 %, top-5 99.00 % (branches 80.00)' in out
    cell = make_cell('baseline', 0, read_flags(FLAGS))
    settings = {**SETTINGS, **cell.settings}
    write(tmp_path / 'runs/compare-cifar_resnet8' / cell.name, {**RECORD, 'settings': settings, 'seed': 0})
    code, out, err = run_cli('compare', '--methods', 'baseline', '--seeds', '1', *FLAGS)
    assert code == 0, err
    assert '| 90.00 | 90.00 |' in ' '.join(out.split())


def test_result_without_settings(refused):
    write(refused.place / 'runs/x', RECORD)
    assert 'holds a result but no args.yaml' in refused('train', *FLAGS, '--experiment', 'x')


@pytest.mark.parametrize('name', TEXTS)
def test_texts(refused, name):
    write(refused.place / 'run', TEXTS[name])
    with pytest.raises(ValueError, match=r"run/run\.json'.*\(delete '.*/run' to have it run again\)"):
        read_result(refused.place / 'run')
    assert "'run/run.json'" in refused('replay', 'run/run.json')


LOGS = {
    'list': [[1]],
    'no seconds': [{'epoch': 0}],
    'seconds as number': [{'seconds': 7}],
    'seconds as texts': [{'seconds': {'train': 'x'}}],
    'not a number': [{'seconds': {'train': float('nan')}}],
    'huge': [{'seconds': {'train': 10**400}}],
    'backwards': [{'seconds': {'train': -1}}],
    'deep': [LINE, DEEP],
    'cut off': [LINE, '{"epoch": 1, "sec'],
    'empty': [],
    'no times': [{'seconds': {}}],
}


@pytest.mark.parametrize('name', LOGS)
def test_logs(refused, name):
    write(refused.place / 'runs/compare-cifar_resnet8/baseline-seed0', RECORD, LOGS[name])
    line = refused('compare', '--methods', 'baseline', '--seeds', '1', *FLAGS)
    assert "baseline-seed0/log.jsonl'" in line
    assert line.endswith("(delete 'runs/compare-cifar_resnet8/baseline-seed0' to have it run again)")


def test_no_log(tmp_path):
    write(tmp_path / 'run', RECORD)
    (tmp_path / 'run/log.jsonl').unlink()
    with pytest.raises(ValueError, match=r"log\.jsonl'.*to have it run again"):
        read_result(tmp_path / 'run')


def test_figure_that_is_not_there(tmp_path):
    found = Result(RECORD, 1.0, tmp_path / 'run')
    assert found.metric('branch0_top1_err', 'last') == 20
    with pytest.raises(ValueError, match=r"run/run\.json' has no branch1_top1 of 'last' \(delete"):
        found.metric('branch1_top1', 'last')


def test_differences_of_records_that_name_nothing():
    whole = {'threads': 1, 'versions': {'torch': '2'}}
    assert differences(whole, {'threads': 2}) == ['thread count: 1, here 2']
    assert differences({'versions': [1]}, whole) == []
    assert differences(whole, {**whole, 'versions': 7}) == []


@pytest.mark.parametrize('line', ['{"epoch": "a"}', '[1]', DEEP, '{"epoch": NaN}', '{"epoch": null}', '7', '{}'])
def test_lines_that_are_no_epochs_are_dropped(tmp_path, line):
    from dkszoo.engine.folder import RunFolder

    (tmp_path / 'log.jsonl').write_text(f'{{"epoch": 0}}\n{line}\n{{"epoch": 1}}\n')
    RunFolder(tmp_path).trim_log(1)
    assert (tmp_path / 'log.jsonl').read_text() == '{"epoch": 0}\n'


def test_a_line_without_an_end_is_dropped(tmp_path):
    """The next one would be written behind it."""
    from dkszoo.engine.folder import RunFolder

    (tmp_path / 'log.jsonl').write_text('{"epoch": 0}\n{"epoch": 1}')
    RunFolder(tmp_path).trim_log(2)
    assert (tmp_path / 'log.jsonl').read_text() == '{"epoch": 0}\n'


@pytest.mark.parametrize('name', TEXTS)
def test_a_run_that_is_not_finished_writes_its_record_again(tmp_path, caplog, name):
    from dkszoo.engine.folder import RunFolder

    for number, record in enumerate((TEXTS[name], {'argv': []}, {**without('result'), 'settings': 7})):
        write(tmp_path / str(number), record)
        assert RunFolder(tmp_path / str(number)).read_record() == {}
        assert f"{number}/run.json' is damaged" in caplog.text
