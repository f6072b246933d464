"""What `publish` compares and refuses, on files made without training; tests/weights has it with runs."""

import json

import pytest

import dkszoo
from dkszoo.deploy.publish import MEASURED, check_new_tag, publish, same_settings

SETTINGS = {'model': 'cifar_resnet8', 'method': 'dks', 'dataset': 'digits'}
SAID = {'device': 'cpu', 'versions': {'torch': '2'}, 'git_commit': 'abc', 'started': '1', 'ended': '2'}
RUN = {'seed': 0, **SAID, 'weights_sha256': '0' * 64, 'best_on': 'val'}
RESULT = {'best': {'top1': 91.0}, 'last': {'top1': 90.0}}


@pytest.fixture
def package(make_checkpoint, tmp_path):
    """Publish an export whose run had these settings; gives its card."""
    path, _ = make_checkpoint('cifar_resnet8', dict(num_classes=4), (3, 32, 32))
    dkszoo.export(path, tmp_path / 'o.safetensors')

    def run(**settings) -> dict:
        record = {**RUN, 'settings': {**SETTINGS, **settings}, 'result': RESULT}
        (tmp_path / 'run.json').write_text(json.dumps(record))
        measured = {'model': 'cifar_resnet8', **dict.fromkeys(MEASURED, 1.0)}
        runs = [tmp_path / 'run.json']
        file = publish(tmp_path / 'o.safetensors', 'dks_digits', measured, runs, 'a note', tmp_path / 'files')
        return json.loads(file.with_suffix('.json').read_text())

    return run


def test_a_card_tells_its_runs(package):
    assert package()['runs'] == [{**RUN, 'top1': {'best': 91.0, 'last': 90.0}}]


@pytest.mark.parametrize('key', SETTINGS)
def test_a_run_of_something_else(package, tmp_path, key):
    with pytest.raises(ValueError, match=r"measured and run were .*'other'.*, exported was"):
        package(**{key: 'other'})
    assert not (tmp_path / 'files').exists()


def test_a_tag_written_again_counts_once(package, tmp_path, monkeypatch):
    monkeypatch.setattr('dkszoo.deploy.publish.BUDGET', 1.5 * (tmp_path / 'o.safetensors').stat().st_size)
    assert package() == package()


def test_runs_are_needed(package, tmp_path):
    with pytest.raises(ValueError, match=r'needs the run\.json of every run'):
        publish(tmp_path / 'o.safetensors', 'dks_digits', {}, [], 'a note', tmp_path / 'files')


def test_a_setting_that_one_run_lacks():
    runs = [{'settings': s, 'result': RESULT, 'seed': i} for i, s in enumerate((SETTINGS, {**SETTINGS, 'lr': 0.1}))]
    for order in (runs, runs[::-1]):
        with pytest.raises(ValueError, match='the runs differ in lr'):
            same_settings(order)
    runs[1]['settings'] = {**SETTINGS, 'skip_nonfinite': 3, 'later': False}  # not to skip, and a switch that is off
    assert 'skip_nonfinite' not in same_settings(runs)
    runs[1]['settings']['later'] = True
    with pytest.raises(ValueError, match='the runs differ in later'):
        same_settings(runs)


@pytest.mark.parametrize(
    ('arch', 'tag', 'says'),
    [
        ('resnet18', 'dks_digits', 'not an untagged dkszoo name'),
        ('cifar_resnet8', 'dksx_digits', r'call it dks_\.\.\.'),
    ],
)
def test_names_that_are_no_tags(arch, tag, says):
    with pytest.raises(ValueError, match=says):
        check_new_tag({'arch': arch, 'method': 'dks', 'model_args': {}}, tag)
