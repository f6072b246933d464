"""Packaged weights: two files make a tag, which loads everywhere, is checked, and gives the number on its card.

The package under test is a copy of this one with two small tags of its own beside the real ones.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import dkszoo
from dkszoo.cli.main import main
from dkszoo.deploy.publish import BUDGET, check_new_tag, publish
from dkszoo.engine import TrainConfig
from dkszoo.engine.data import open_data
from dkszoo.models._tags import FILES, read_cfg
from dkszoo.weights import pretrained_overlay, tag_of, weighted_name
from dkszoo.weights.pretrained import check_source

ROOT = Path(__file__).parents[2]
RUN = (
    *('train', '--config', 'quickstart', '--epochs', '1', '--train-num-samples', '200', '--device', 'cpu'),
    *('--validation-batch-size', '100'),
)
DKS, BASE = 'cifar_resnet8.dks_digits', 'cifar_resnet8.base_digits'
SMALLEST = min(sorted(FILES.glob('*.safetensors')), key=lambda file: file.stat().st_size).stem
DATA = '/usr/share/datasets/fashion-mnist'  # of Debian's package dataset-fashion-mnist


def call(*argv) -> str:
    """A command in this process; gives its last line."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(a) for a in argv]) == 0
    return out.getvalue().splitlines()[-1]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Runs of two methods, exported, and what validate says of the exports."""
    folder = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method, seed in (('baseline', 0), ('baseline', 1), ('dks', 0)):
            name = f'{method}-{seed}'
            call(*RUN, '--method', method, '--seed', seed, '--experiment', name, '--export', f'{name}.safetensors')
        for name in ('baseline-0', 'dks-0'):
            line = call('validate', '--checkpoint', f'{name}.safetensors', '--device', 'cpu')
            (folder / f'{name}.measured.json').write_text(line)
    return folder


def publish_from(trained: Path, name: str, tag: str, seeds=(0,), folder=None, **changes) -> Path:
    measured = {**json.loads((trained / f'{name}-0.measured.json').read_text()), **changes}
    runs = [trained / 'runs' / f'{name}-{seed}' / 'run.json' for seed in seeds]
    return publish(trained / f'{name}-0.safetensors', tag, measured, runs, 'dks is no better', folder)


@pytest.fixture(scope='module')
def package(tmp_path_factory, trained) -> Path:
    """A folder with hubconf.py and a package of which two more weights are part."""
    folder = tmp_path_factory.mktemp('package')
    shutil.copytree(ROOT / 'dkszoo', folder / 'dkszoo', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'hubconf.py', folder)
    files = folder / 'dkszoo' / 'weights' / 'files'
    publish_from(trained, 'baseline', 'base_digits', (0, 1), files)
    publish_from(trained, 'dks', 'dks_digits', (0,), files)
    return folder


def python(package: Path, *argv, cwd='/') -> subprocess.CompletedProcess:
    """Python in a process of its own, with the package under test."""
    environment = {**os.environ, 'PYTHONPATH': str(package), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def program(package: Path, code: str, *args) -> dict:
    done = python(package, '-c', textwrap.dedent(code), *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def commands(package: Path, cwd: Path, *argvs: tuple) -> list[str]:
    """What several commands print, one after the other in one process."""
    code = 'import json, sys; from dkszoo.cli.main import main; sys.exit(max(map(main, json.loads(sys.argv[1]))))'
    done = python(package, '-c', code, json.dumps(argvs), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def card_of(package: Path, name: str) -> dict:
    return json.loads((package / 'dkszoo' / 'weights' / 'files' / f'{name}.json').read_text())


def test_a_card_says_how_and_how_sure(package, trained):
    card = card_of(package, BASE)
    records = [json.loads((trained / f'runs/baseline-{seed}/run.json').read_text()) for seed in (0, 1)]
    one, two = [record['result']['best']['top1'] for record in records]
    spread = card['spread']['best']
    assert (spread['mean'], spread['std']) == pytest.approx(((one + two) / 2, abs(one - two) / 2**0.5))
    assert [run['seed'] for run in card['runs']] == [0, 1]
    assert spread['n'] == 2
    assert card['tag'] == 'base_digits'
    assert card['settings']['epochs'] == 1
    assert card['results']['top1'] == json.loads((trained / 'baseline-0.measured.json').read_text())['top1']
    assert card['note'] == 'dks is no better'
    assert str(trained) not in json.dumps(card)
    assert card_of(package, DKS)['spread']['best']['std'] is None


def test_spreads_of_the_last_epoch_and_of_the_best(trained, tmp_path):
    runs = []
    for seed, last, best in ((0, 80.0, 91.0), (1, 82.0, 95.0)):
        record = json.loads((trained / f'runs/baseline-{seed}/run.json').read_text())
        record['result'] |= {'last': {'top1': last}, 'best': {'top1': best}}
        runs.append(tmp_path / f'{seed}.json')
        runs[-1].write_text(json.dumps(record))
    measured = json.loads((trained / 'baseline-0.measured.json').read_text())
    file = publish(trained / 'baseline-0.safetensors', 'base_digits', measured, runs, 'a note', tmp_path / 'files')
    card = json.loads(file.with_suffix('.json').read_text())
    assert card['spread'] == {
        'last': {'mean': 81.0, 'std': pytest.approx(2**0.5), 'n': 2},
        'best': {'mean': 93.0, 'std': pytest.approx(8**0.5), 'n': 2},
    }
    assert [run['top1'] for run in card['runs']] == [{'best': 91.0, 'last': 80.0}, {'best': 95.0, 'last': 82.0}]


def test_the_page_has_the_numbers_of_the_cards():
    page = (ROOT / 'docs' / 'weights.md').read_text(encoding='utf-8')
    found = re.findall(r'^\| `([\w.]+)` \| ([\d.]+) \| ([\d.]+) \| (.*)\|$', page, re.MULTILINE)
    rows = {name: cells for name, *cells in found}
    assert sorted(rows) == sorted(dkszoo.list_models(pretrained=True))
    for name, (top1, top5, seeds) in rows.items():
        card = FILES / f'{name}.json'
        if card.exists():
            known = json.loads(card.read_text())
            results, best = known['results'], known['spread']['best']
            std = '' if best['std'] is None else f' ({best["std"]:.2f})'
            assert (top1, top5) == (f'{100 - results["top1"]:.2f}', f'{100 - results["top5"]:.2f}'), name
            assert seeds.strip() == f'{100 - best["mean"]:.2f}{std}, {best["n"]}', name


def test_packaged_cards_say_the_same_things():
    cards = [json.loads(file.read_text()) for file in sorted(FILES.glob('*.json'))]
    assert {tuple(sorted(card)) for card in cards} == {tuple(sorted(cards[0]))}
    assert {'source', 'design', 'method', 'class_names', 'data', 'num_params', 'flops', 'verified'} <= cards[0].keys()


@pytest.mark.parametrize(
    ('method', 'dataset', 'tag'),
    [
        ('baseline', 'torch/fashion_mnist', 'base_fashion_mnist'),
        ('kd+ds', 'hfds/owner/some-set', 'kd_ds_hfds_owner_some_set'),
        ('dks', '', 'dks'),
        (None, 'digits', None),
    ],
)
def test_tags_are_method_and_dataset(method, dataset, tag):
    assert tag_of({'method': method, 'dataset': dataset}) == tag


def test_which_weights_a_name_without_tag_stands_for(monkeypatch):
    tags = []
    monkeypatch.setattr('timm.list_pretrained', lambda _: [f'cifar_resnet8.{tag}' for tag in tags])
    for tags[:], chosen in ((['base_a'], '.base_a'), (['base_a', 'da', 'dks_a'], '.dks_a'), ([], '')):
        assert weighted_name('cifar_resnet8') == f'cifar_resnet8{chosen}'
    tags[:] = ['dks_a', 'dks_b', 'base_a']
    with pytest.raises(ValueError, match=r'several weights \(name one: cifar_resnet8.dks_a, cifar_resnet8.dks_b\)'):
        weighted_name('cifar_resnet8')


@pytest.mark.parametrize('text', ['{', '{}', '[]', '{"data": 7}'])
def test_a_damaged_card_does_not_keep_the_package_from_loading(tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    assert read_cfg(tmp_path / 'a.json') == {}


def test_weights_of_timms_are_timms_matter(monkeypatch):
    monkeypatch.setattr('dkszoo.weights.pretrained.cached', lambda *_: pytest.fail('fetched'))
    assert pretrained_overlay('resnet18') == pretrained_overlay('cifar_resnet8') == {}


def test_a_file_goes_before_the_weights_of_a_tag(tmp_path, recwarn):
    state = dkszoo.create_model(SMALLEST, pretrained=True).state_dict()
    torch.save({key: value + 1 for key, value in state.items()}, tmp_path / 'w.pth')
    made = dkszoo.create_model(SMALLEST, pretrained=True, checkpoint_path=tmp_path / 'w.pth')
    assert torch.equal(made.fc.bias, state['fc.bias'] + 1)
    assert not recwarn.list  # torch warns of every weight that is loaded where only shapes are wanted


def test_more_of_a_configuration_may_be_given_with_a_tag(tmp_path):
    net = dkszoo.create_model(SMALLEST, pretrained=True, pretrained_cfg_overlay={'crop_pct': 0.5})
    assert (net.pretrained_cfg['crop_pct'], net.pretrained_cfg['tag']) == (0.5, SMALLEST.partition('.')[2])
    torch.save({key: value + 1 for key, value in net.state_dict().items()}, tmp_path / 'w.pth')
    own = dkszoo.create_model(SMALLEST, pretrained=True, pretrained_cfg_overlay={'file': str(tmp_path / 'w.pth')})
    assert torch.equal(own.fc.bias, net.fc.bias + 1)


def test_a_configuration_may_be_a_dict(tmp_path):
    file = shutil.copy(FILES / f'{SMALLEST}.safetensors', tmp_path / 'w.safetensors')
    shutil.copy(FILES / f'{SMALLEST}.json', tmp_path / 'w.json')
    check_source({'file': str(file)})
    (tmp_path / 'w.safetensors').write_bytes(b'damaged')
    with pytest.raises(ValueError, match='SHA-256 does not match'):
        check_source({'file': str(file)})


def test_tags_load_everywhere_offline(package):
    result = program(
        package,
        """
        import json, sys, pathlib, socket
        def offline(*args, **kwargs):
            raise OSError('no network here')
        socket.socket.connect = offline
        import safetensors.torch, timm, torch
        folder, dks, base = sys.argv[1:]
        hub = lambda name, **kwargs: torch.hub.load(folder, name, source='local', **kwargs)
        nets = [hub('cifar_resnet8', pretrained=True), hub('cifar_resnet8_dks_digits')]
        import dkszoo
        nets += [dkszoo.create_model(name, pretrained=True) for name in ('cifar_resnet8', dks)]
        nets += [timm.create_model(dks, pretrained=True)]
        files = pathlib.Path(dkszoo.__file__).parent / 'weights' / 'files'
        state = safetensors.torch.load_file(files / f'{dks}.safetensors')
        named = timm.create_model(base, pretrained=True).state_dict()
        plain, fresh = timm.create_model('cifar_resnet8'), dkszoo.create_model('cifar_resnet8')
        other = dkszoo.create_model('cifar_resnet8', pretrained=True, num_classes=3, in_chans=3, branches='dks')
        from dkszoo.engine import TrainConfig
        from dkszoo.engine.data import open_data
        from dkszoo.engine.teacher import build_teacher
        config, _ = open_data(TrainConfig(method='kd', kd_model_name='cifar_resnet8', device='cpu'))
        nets.append(build_teacher(config).model)
        # every packaged weight, the real ones too
        packaged = sorted(file.stem for file in files.glob('*.safetensors'))
        for name in packaged:
            net = dkszoo.create_model(name, pretrained=True)
            card = dkszoo.weights.read_card(files / f'{name}.safetensors')
            assert f'{card["arch"]}.{card["tag"]}' == name
            assert {'results', 'settings', 'runs', 'spread', 'note'} <= card.keys()
            assert net.num_classes == card['model_args']['num_classes'] == len(net.pretrained_cfg['label_names'])
        print(json.dumps({
            'package': str(pathlib.Path(dkszoo.__file__).parents[1]),
            'equal': [all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) for net in nets],
            'another': torch.equal(named['fc.weight'], state['fc.weight']),
            'input': nets[0].pretrained_cfg['input_size'],
            'classes': nets[0].pretrained_cfg['label_names'],
            'untagged': [[net.in_chans, net.num_classes] for net in (plain, fresh)],
            'adapted': [other.backbone.in_chans, other.num_classes, torch.equal(
                other.backbone.layer3[0].conv1.weight, state['layer3.0.conv1.weight'])],
            'listed': sorted(n for n in dkszoo.list_models(pretrained=True) if not n.startswith('dks_')) == packaged,
            'packaged': packaged,
            'bytes': sum(file.stat().st_size for file in files.iterdir()),
        }))
        """,
        package,
        DKS,
        BASE,
    )
    packaged = result.pop('packaged')
    assert {DKS, BASE} | {file.stem for file in FILES.glob('*.json')} == set(packaged)
    assert result.pop('bytes') < BUDGET
    assert result == {
        'package': str(package),
        'equal': [True] * 6,
        'another': False,
        'input': [1, 32, 32],
        'classes': [str(i) for i in range(10)],
        'untagged': [[3, 100], [3, 100]],
        'adapted': [3, 3, True],
        'listed': True,
    }


def assert_published(figures: dict, card: dict) -> None:
    for key in ('top1', 'top5', 'images', 'batch_size'):
        assert figures[key] == card['results'][key], key
    for key in ('loss', 'ece'):  # sums of float32: other processors round them otherwise
        assert figures[key] == pytest.approx(card['results'][key], rel=1e-5), key


def test_a_name_gives_the_published_number_and_a_pattern_walks_names_and_tags(package, tmp_path):
    validate = ('validate', '--pretrained', '--device', 'cpu')
    several = (*validate, '--model', 'cifar_*_digits', '--results-file', 'r.csv')
    lines = commands(package, tmp_path, ('models', 'resnet8', '--csv'), (*validate, '--model', DKS), several)
    figures = [json.loads(line) for line in lines if line.startswith('{')]
    assert [f['model'] for f in figures] == [DKS, BASE, DKS]
    for found in figures:
        assert_published(found, card_of(package, found['model']))
    rows = (tmp_path / 'r.csv').read_text().splitlines()
    assert [row.split(',')[0] for row in rows] == ['model', BASE, DKS]
    assert lines[1].endswith(',base_digits dks_digits')


@pytest.mark.skipif(not Path(DATA).is_dir(), reason='Fashion-MNIST is not on this machine')
def test_one_command_gives_the_published_number(run_cli):
    code, out, err = run_cli('validate', '--model', SMALLEST, '--pretrained', '--device', 'cpu', '--data-dir', DATA)
    assert code == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert figures['model'] == SMALLEST
    assert_published(figures, json.loads((FILES / f'{SMALLEST}.json').read_text()))


def test_a_changed_file_is_refused(package, tmp_path):
    changed = tmp_path / 'changed'
    shutil.copytree(package, changed)
    files = changed / 'dkszoo' / 'weights' / 'files'
    weights = files / f'{DKS}.safetensors'
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    card = files / f'{BASE}.json'
    card.write_text(card.read_text().replace('"top1"', '"top2"', 1))
    result = program(
        changed,
        """
        import json, sys, timm, torch
        folder, *names = sys.argv[1:]
        said = []
        def attempt(function):
            try:
                function()
                said.append('loaded')
            except ValueError as error:
                said.append(str(error))
        for name in names:
            attempt(lambda: torch.hub.load(folder, name.replace('.', '_'), source='local'))
            import dkszoo
            from dkszoo.cli.main import main
            attempt(lambda: dkszoo.create_model(name, pretrained=True))
            arch, tag = name.split('.')
            attempt(lambda: dkszoo.create_model(arch, pretrained=True, pretrained_cfg=tag))
            attempt(lambda: dkszoo.create_model(arch, pretrained=True, pretrained_cfg=timm.get_pretrained_cfg(name)))
            said.append(main(['validate', '--model', name, '--pretrained', '--dataset', 'digits']))
        print(json.dumps(said))
        """,
        changed,
        DKS,
        BASE,
    )
    for said in result[:4]:
        assert 'SHA-256 does not match' in said
        assert f'{DKS}.safetensors' in said
    for said in result[5:9]:
        assert 'its own SHA-256 does not match' in said
    assert result[4::5] == [2, 2]


@pytest.mark.slow
def test_files_of_another_tag_or_none_are_refused(package, tmp_path):
    changed = tmp_path / 'changed'
    shutil.copytree(package, changed)
    files = changed / 'dkszoo' / 'weights' / 'files'
    card = files / f'{BASE}.json'
    # two tags exchanged
    for suffix in ('.safetensors', '.json'):
        shutil.copy(files / f'{BASE}{suffix}', files / f'{DKS}{suffix}')
    done = python(changed, '-m', 'dkszoo', 'validate', '--model', DKS, '--pretrained', '--dataset', 'digits')
    assert (done.returncode, f'holds {BASE!r}' in done.stderr.splitlines()[-1]) == (2, True)

    # a card that is no JSON: the package still imports, and the tag is refused
    card.write_text('{')
    done = python(changed, '-m', 'dkszoo', 'validate', '--model', BASE, '--pretrained', '--dataset', 'digits')
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith('dkszoo: error: ')
    assert 'is damaged' in done.stderr.splitlines()[-1]
    # without a card there is no such tag
    card.unlink()
    done = python(changed, '-m', 'dkszoo', 'validate', '--model', BASE, '--pretrained', '--dataset', 'digits')
    assert f"has no tag 'base_digits' (it has {DKS})" in done.stderr.splitlines()[-1]


def test_publish_refuses_what_would_lie(trained, tmp_path, monkeypatch):
    def refused(name='baseline', tag='base_digits', **kwargs) -> str:
        with pytest.raises(ValueError) as caught:
            publish_from(trained, name, tag, folder=tmp_path, **kwargs)
        assert list(tmp_path.iterdir()) == []
        return str(caught.value)

    assert 'call it base_...' in refused(tag='dks_digits')
    assert 'measured and run were' in refused(model='cifar_resnet14')
    assert 'the seeds [0, 0]' in refused(seeds=(0, 0))
    other = json.loads((trained / 'runs/baseline-1/run.json').read_text())
    folder = trained / 'runs/baseline-2'
    folder.mkdir()
    for settings, says in (({'lr': 0.3}, 'the runs differ in lr'), ({'workers': 9, 'data_dir': 'x'}, None)):
        (folder / 'run.json').write_text(json.dumps({**other, 'settings': {**other['settings'], **settings}}))
        if says:
            assert says in refused(seeds=(0, 2))
    publish_from(trained, 'baseline', 'base_digits', (0, 2), tmp_path / 'files')
    del other['result']
    (folder / 'run.json').write_text(json.dumps(other))
    shutil.rmtree(tmp_path / 'files')
    assert 'finished' in refused(seeds=(0, 2))
    monkeypatch.setattr('dkszoo.deploy.publish.BUDGET', 1e3)
    assert 'the packaged weights would be 0.3 MB (at most 0 MB)' in refused()


def test_training_goes_on_with_the_normalisation_of_the_weights():
    """Not with that of the untagged name, which is CIFAR-100's."""
    name, tag = 'cifar_resnet20', 'dks_fashion_mnist'
    (mean,) = json.loads((FILES / f'{name}.{tag}.json').read_text())['data']['mean']
    for settings in ({'pretrained': True}, {'initial_checkpoint': str(FILES / f'{name}.{tag}.safetensors')}):
        config, _ = open_data(TrainConfig(dataset='digits', model=name, **settings))
        assert config.mean == (mean,)


def test_a_tag_says_all_of_a_network():
    card = {'arch': 'cifar_resnet8', 'method': 'baseline', 'model_args': {'num_classes': 10, 'drop_rate': 0.1}}
    check_new_tag(card, 'base_digits')
    card['model_args'] |= {'shortcut': 'pad', 'stem_chs': 4}
    with pytest.raises(ValueError, match='a tag cannot carry shortcut, stem_chs'):
        check_new_tag(card, 'base_digits')
