"""The hub: every model by its name, from a plain folder, as torch.hub finds it."""

import inspect
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import dkszoo

ROOT = Path(__file__).parent.parent
OPTIONAL = ('sklearn', 'scipy', 'matplotlib', 'pandas', 'onnx', 'onnxruntime')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """What a download of the repository is: a folder, here with a space in its path."""
    path = tmp_path_factory.mktemp('a download') / 'dks zoo'
    path.mkdir()
    shutil.copytree(ROOT / 'dkszoo', path / 'dkszoo', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'hubconf.py', path)
    return path


def run(code: str, *args) -> dict:
    """Run a program in a process of its own, away from the repository; returns the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, '-W', 'error:::hubconf', '-c', textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        cwd='/',
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_loads_from_a_plain_folder_twice(folder, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save(dkszoo.create_model('cifar_resnet8', num_classes=7).state_dict(), weights)
    result = run(
        """
        import json, sys, timm, torch
        folder, weights, *optional = sys.argv[1:]
        before = set(sys.modules)
        def load(*args, **kwargs):
            return torch.hub.load(folder, *args, source='local', **kwargs)
        first = load('cifar_resnet8', num_classes=7, checkpoint_path=weights)
        second = load('cifar_resnet8', num_classes=7, checkpoint_path=weights, branches='dks', taps=[1])
        import dkszoo
        brought = {name.partition('.')[0] for name in set(sys.modules) - before}
        third = load('create_model', 'resnet18', num_classes=3)
        x = torch.rand(2, 3, 32, 32)
        print(json.dumps({
            'package': dkszoo.__file__,
            'types': [type(net).__name__ for net in (first, second, third)],
            'branches': len(second.eval()(x).branch_logits),
            'same': torch.equal(first.eval()(x), second.backbone(x)),
            'classes': third.num_classes,
            'timm finds them': timm.is_model('cifar_resnet8'),
            'optional packages': sorted(brought & set(optional)),
        }))
        """,
        folder,
        weights,
        *OPTIONAL,
    )
    assert result == {
        'package': str(folder / 'dkszoo' / '__init__.py'),
        'types': ['CifarResNet', 'DeeplySupervised', 'ResNet'],
        'branches': 1,
        'same': True,
        'classes': 3,
        'timm finds them': True,
        'optional packages': [],
    }


def test_list_and_help_in_the_hubs_cache(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'owner_dkszoo_main')
    result = run(
        """
        import json, sys, torch
        torch.hub.set_dir(sys.argv[1])
        how = dict(trust_repo=True, skip_validation=True)
        names = torch.hub.list('owner/dkszoo:main', **how)
        help = {name: torch.hub.help('owner/dkszoo:main', name, **how) for name in names}
        print(json.dumps(help))
        """,
        tmp_path,
    )
    assert set(dkszoo.list_models()) | {'create_model'} <= set(result)
    for name, text in result.items():
        assert name.isidentifier()
        if name != 'create_model':
            assert len(text.strip().splitlines()) == 1, name
            assert text.strip().endswith('.'), name
    assert result['cifar_resnet8x4'].startswith('ResNet-8')


@pytest.fixture(scope='module')
def entry_points() -> dict:
    import importlib.util

    spec = importlib.util.spec_from_file_location('hubconf_under_test', ROOT / 'hubconf.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if callable(value) and not name.startswith('_')}


def test_entry_points_are_the_models_and_no_more(entry_points):
    tagged = [name.replace('.', '_').replace('-', '_') for name in dkszoo.list_models(pretrained=True)]
    assert sorted(entry_points) == sorted({*dkszoo.list_models(), *tagged, 'create_model'})
    assert entry_points['create_model'] is dkszoo.create_model


def test_signatures(entry_points):
    for name, function in entry_points.items():
        names = list(inspect.signature(function).parameters)
        assert function.__name__ == name
        if name != 'create_model':
            assert names == ['pretrained', 'branches', 'taps', 'checkpoint_path', 'kwargs']
    assert entry_points['cifar_resnet20_dks_fashion_mnist'].__doc__.endswith('. Weights: dks_fashion_mnist.')


def test_what_is_asked_for_is_handed_on(entry_points, monkeypatch):
    seen = []
    monkeypatch.setattr(dkszoo, 'create_model', lambda name, **kwargs: seen.append((name, kwargs)))
    for name in ('cifar_resnet20', 'cifar_resnet20_dks_fashion_mnist'):
        entry_points[name](branches='dks', taps=[1], checkpoint_path='w.pth', num_classes=7)
    entry_points['cifar_resnet20'](pretrained=True)
    assert [(name, kwargs['pretrained']) for name, kwargs in seen] == [
        ('cifar_resnet20', False),
        ('cifar_resnet20.dks_fashion_mnist', True),
        ('cifar_resnet20', True),
    ]
    given = {'branches': 'dks', 'taps': [1], 'checkpoint_path': 'w.pth', 'num_classes': 7}
    assert all(given.items() <= kwargs.items() for _, kwargs in seen[:2])


def test_dependencies_are_those_of_the_package():
    import ast
    import re

    tree = ast.parse((ROOT / 'hubconf.py').read_text())
    assignment = next(node for node in tree.body if isinstance(node, ast.Assign))
    listed = ast.literal_eval(assignment.value)
    text = (ROOT / 'pyproject.toml').read_text()
    required = re.findall(r'"([\w-]+)', re.search(r'^dependencies = \[(.*?)\]', text, re.M | re.S)[1])
    assert listed == [{'pyyaml': 'yaml', 'pillow': 'PIL'}.get(name, name) for name in required]


def test_mistakes_are_explained(entry_points):
    with pytest.raises(ValueError, match='unknown design'):
        entry_points['cifar_resnet8'](branches='dkss')
    with pytest.raises(ValueError, match='unknown model'):
        entry_points['create_model']('cifar_resnet9')
