"""YAML and JSON from anybody: recipes, designs, settings, records."""

import json

import pytest
import yaml

from dkszoo.cli.flags import read_tuple
from dkszoo.engine import TrainConfig
from dkszoo.weights import dump_yaml, parse_yaml

TRAIN = ('train', '--config', 'quickstart', '--device', 'cpu')
TAGS = {
    'system': '!!python/object/apply:os.system ["touch {}"]',
    'new': '!!python/object/new:subprocess.Popen [["touch", "{}"]]',
    'eval': "!!python/object/apply:eval [\"open('{}', 'w')\"]",
    'name': '!!python/name:os.system',
    'module': '!!python/module:antigravity',
    'object': '!!python/object:dkszoo.engine.TrainConfig {{}}',
    'bool': '!!bool maybe',
    'int': '!!int ""',
    'float': '!!float ""',
    'time': '!!timestamp "x"',
    'binary': '!<tag:yaml.org,2002:python/bytes> "AA=="',
}
DEEP = '[' * 1200
# Ten lines that stand for 10^10 values.
BOMB = 'a0: &a0 [1]\n' + ''.join(f'a{i + 1}: &a{i + 1} [{", ".join([f"*a{i}"] * 10)}]\n' for i in range(10))


@pytest.mark.parametrize('name', TAGS)
def test_tags(refused, canary, name):
    value = TAGS[name].replace('{}', str(canary))
    place = refused.place
    (place / 'r.yaml').write_text(f'lr: {value}\n')
    assert 'cannot be read' in refused('train', '--config', 'r.yaml')
    (place / 'd.yaml').write_text(f'branches: {value}\n')
    assert 'cannot read branch design' in refused(*TRAIN, '--branches', 'd.yaml')
    assert 'cannot read branch design' in refused('cost', 'cifar_resnet8', '--branches', 'd.yaml')
    assert 'is not a value' in refused(*TRAIN, '--model-kwargs', f'shortcut={value}')
    assert 'is not a value' in refused('cost', 'cifar_resnet8', '--model-kwargs', f'shortcut={value}')
    folder = place / 'runs' / 'quickstart'
    folder.mkdir(parents=True)
    (folder / 'args.yaml').write_text(f'model: {value}\n')
    (folder / 'run.json').write_text('{"result": {}}')
    assert 'args.yaml' in refused(*TRAIN)


@pytest.mark.parametrize('text', ['1e-3', '-2E5', '+1e3', '1.5e3', '.5e+2', '3e4'])
def test_numbers_with_an_exponent(text):
    """YAML 1.1 takes them for words; such a word is written so that it stays one."""
    assert parse_yaml(f'lr: {text}') == {'lr': float(text)}
    assert parse_yaml(dump_yaml({'name': text, 'lr': float(text)})) == {'name': text, 'lr': float(text)}


@pytest.mark.parametrize('text', ['1e', 'e3', '2e8c1', '0x1e3g', '1e5e5', '--1e5'])
def test_words_that_are_no_numbers(text):
    assert parse_yaml(text) == parse_yaml(dump_yaml(text)) == text


@pytest.mark.parametrize(
    'text',
    [DEEP, BOMB, 'x: &a {y: *a}', '1: 2\nx: 3\n', 'x: 1\ny: 2\n', '&a [*a]', '? {a: 1}\n: 2\n', '\x00', '!!set {a, b}'],
)
def test_texts_that_are_no_settings(refused, text):
    place = refused.place
    (place / 'r.yaml').write_text(text)
    refused('train', '--config', 'r.yaml')
    refused(*TRAIN, '--branches', 'r.yaml')
    folder = place / 'runs' / 'quickstart'
    folder.mkdir(parents=True)
    (folder / 'args.yaml').write_text(text)
    (folder / 'run.json').write_text('{"result": {}}')
    refused(*TRAIN)


@pytest.mark.parametrize('depth', [3000, 100_000])
def test_texts_too_deep_for_python_are_no_tuples(depth):
    assert read_tuple('-' * depth + '1') is None


def test_recipes_that_reach_out(refused):
    recipe = refused.place / 'r.yaml'
    for arguments in ({'pretrained_cfg_overlay': {'url': 'file:///x.pth'}}, {'checkpoint_path': 'x.pth'}):
        recipe.write_text(yaml.safe_dump({'dataset': 'digits', 'model': 'resnet18', 'model_kwargs': arguments}))
        assert 'would read other files' in refused('train', '--config', 'r.yaml', '--device', 'cpu')
    recipe.write_text('overwrite: true\n')
    assert 'would overwrite' in refused('train', '--config', 'r.yaml', '--device', 'cpu')


def test_hub_folders(refused):
    (refused.place / 'hub').mkdir()
    for arguments in ({'checkpoint_path': 'x.pth'}, [1], {'colour': 'red'}):
        config = {'architecture': 'cifar_resnet8', 'num_classes': 3, 'model_args': arguments}
        (refused.place / 'hub/config.json').write_text(json.dumps(config))
        refused('validate', '--model', 'local-dir:hub', '--pretrained', '--dataset', 'digits')


def record(**changes) -> dict:
    settings = TrainConfig(dataset='digits', epochs=1).to_dict()
    return {
        'argv': ['train.py', '; touch canary', '$(touch canary)', '`touch canary`'],
        'settings': {**settings, **changes.pop('settings', {})},
        'seed': 0,
        'threads': 1,
        'best_on': 'val',
        'weights_sha256': '0' * 64,
        'result': {'best_epoch': 0, 'last': {'top1': 90.0, 'top5': 99.0}, 'best': {'top1': 90.0, 'top5': 99.0}},
        **changes,
    }


RECORDS = {
    'model': record(settings={'model': '$(touch canary)'}),
    'unknown setting': record(settings={'__class__': 'os.system'}),
    'place of the results': record(settings={'output': '/', 'experiment': '../../canary', 'epochs': 'many'}),
    'export': record(settings={'export': '/canary.safetensors', 'lr': None}),
    'settings': {**record(), 'settings': [1]},
    'threads': record(threads=10**9),
    'no threads': record(threads=0),
    'threads as texts': record(threads='1; touch canary'),
    'truth as threads': record(threads=True),
    'hash': record(weights_sha256=7),
    'data': record(settings={'dataset': 'torch/cifar10', 'data_dir': '/etc'}),
    'checkpoint': record(settings={'initial_checkpoint': '/etc/passwd'}),
    'list': [1],
}


@pytest.mark.parametrize('name', RECORDS)
def test_records(refused, name):
    folder = refused.place / 'their-run'
    folder.mkdir()
    (folder / 'run.json').write_text(json.dumps(RECORDS[name]))
    refused('replay', 'their-run/run.json')


def test_records_that_are_no_json(refused):
    for text in ('[' * 100000, '{"settings": NaN', '\x00', yaml.safe_dump(record())):
        (refused.place / 'run.json').write_text(text)
        refused('replay', 'run.json')
