"""A folder in timm's hub layout, and what plain timm and torchvision make of an export."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load_file

import dkszoo
from dkszoo.deploy import VerificationFailed, check_folder, export_hub, hub
from dkszoo.deploy.citations import PAPERS, papers_of
from dkszoo.deploy.hub import is_timm_arch, read_results
from dkszoo.deploy.model_card import fact_lines, recipe
from dkszoo.engine import TrainConfig
from dkszoo.engine.data import open_data
from dkszoo.engine.teacher import build_teacher
from dkszoo.tasks import METHODS

FILES = ['README.md', 'config.json', 'model.json', 'model.safetensors']


@pytest.mark.slow
def test_timms_resnet18_in_timm_and_torchvision(make_checkpoint, tmp_path):
    path, net = make_checkpoint('resnet18', dict(num_classes=1000, in_chans=3), (3, 64, 64))
    card = export_hub(path, tmp_path / 'hub')
    assert sorted(p.name for p in (tmp_path / 'hub').iterdir()) == FILES
    state = load_file(tmp_path / 'hub' / 'model.safetensors')
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = net.eval()(images).logits
        for plain in (timm.create_model('resnet18'), torchvision.models.resnet18()):
            plain.load_state_dict(state, strict=True)
            assert torch.equal(plain.eval()(images), expected)
    assert 'import dkszoo' not in (tmp_path / 'hub' / 'README.md').read_text()

    torch.save({'images': images, 'logits': expected}, tmp_path / 'io.pth')
    code = """
        import json, sys, timm, torch
        model = timm.create_model(f'local-dir:{sys.argv[1]}', pretrained=True).eval()
        io = torch.load(sys.argv[2])
        with torch.inference_mode():
            same = torch.equal(model(io['images']), io['logits'])
        data = timm.data.resolve_model_data_config(model)
        print(json.dumps([same, 'dkszoo' in sys.modules, data, list(model.pretrained_cfg['label_names'][:2])]))
        """
    argv = [sys.executable, '-c', textwrap.dedent(code), tmp_path / 'hub', tmp_path / 'io.pth']
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, False, card['data'], ['class 0', 'class 1']]


@pytest.fixture
def run_folder(make_checkpoint, tmp_path):
    """A run folder with a best checkpoint and results."""
    args = dict(num_classes=4, in_chans=1, channels=[4, 8, 16], stem_chs=4)
    path, net = make_checkpoint('cifar_resnet8', args, (1, 32, 32), 'model_best.pth.tar')
    best = {'loss': 0.25, 'top1': 91.5, 'top5': 100.0}
    record = {'settings': {'model_ema': False}, 'result': {'best_epoch': 3, 'best': best, 'last': {'top1': 90.0}}}
    (tmp_path / 'run.json').write_text(json.dumps(record))
    return path, net


def test_model_card(run_folder, tmp_path, run_cli):
    path, net = run_folder
    code, out, err = run_cli('export', path, '--hub-dir', 'hub', '--license', 'cc-by-4.0')
    assert code == 0, err
    assert out.startswith('hub: cifar_resnet8, ')
    images = torch.randn(2, 1, 32, 32)
    model = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=True).eval()
    assert torch.equal(model(images), net.eval()(images).logits)
    assert model.pretrained_cfg['tag'] == 'dks_digits'
    loaded, _ = dkszoo.load(tmp_path / 'hub' / 'model.safetensors')
    assert torch.equal(loaded(images), model(images))

    text = (tmp_path / 'hub' / 'README.md').read_text()
    header = yaml.safe_load(text.split('---\n')[1])
    assert (header['license'], header['library_name']) == ('cc-by-4.0', 'timm')
    for part in (
        'trained with dks on digits',
        '| top1 | 91.5000 % |',
        '| loss | 0.2500 |',
        'licence of the weights | cc-by-4.0',
        'import dkszoo',
        'Deeply-supervised Knowledge Synergy',
        'Deeply-Supervised Knowledge Distillation',
        json.loads((tmp_path / 'hub' / 'model.json').read_text())['sha256'],
    ):
        assert part in text
    recipe = yaml.safe_load(re.search(r'```yaml\n(.*?)```', text, re.S)[1])
    assert TrainConfig.from_dict(recipe).lr == 0.05
    assert '/somewhere' not in text


def test_results_of_other_weights_are_not_claimed(run_folder, tmp_path):
    path, _ = run_folder
    os.rename(path, tmp_path / 'other.pth.tar')
    export_hub(tmp_path / 'other.pth.tar', tmp_path / 'hub')
    text = (tmp_path / 'hub' / 'README.md').read_text()
    assert '91.5' not in text
    assert 'None recorded.' in text
    assert 'license: apache-2.0' in text


def test_the_figure_that_a_checkpoint_itself_knows(run_folder, tmp_path):
    path, _ = run_folder
    torch.save({**torch.load(path, weights_only=True), 'metric': 71.234}, tmp_path / 'other.pth.tar')
    export_hub(tmp_path / 'other.pth.tar', tmp_path / 'hub')
    assert 'the images that the best epoch was chosen on: 71.23 %' in (tmp_path / 'hub' / 'README.md').read_text()


@pytest.mark.parametrize(
    ('file', 'ema', 'expected'),
    [
        ('last.pth.tar', False, {'top1': 90.0}),
        ('model_best.pth.tar', False, {'top1': 91.5}),
        ('model_best.pth.tar', True, {}),
        ('other.pth.tar', False, {}),
    ],
)
def test_figures_are_of_these_very_weights(tmp_path, file, ema, expected):
    result = {'best_epoch': 3, 'best': {'top1': 91.5}, 'last': {'top1': 90.0}}
    (tmp_path / 'run.json').write_text(json.dumps({'settings': {'model_ema': False}, 'result': result}))
    assert read_results(tmp_path / file, {'ema': ema}) == expected
    result['best'] |= {'loss': float('nan'), 'top5': '99', 'branch0_top1': True}
    (tmp_path / 'run.json').write_text(json.dumps({'settings': {'model_ema': False}, 'result': result}))
    assert read_results(tmp_path / file, {'ema': ema}) == expected


def test_every_method_has_its_papers():
    assert [name for name in METHODS if not papers_of(name)] == ['baseline']
    assert [paper.key for paper in papers_of('kd+dks')] == ['hinton2015kd', 'sun2019dks']
    for paper in PAPERS.values():
        assert re.fullmatch(r'@\w+\{\w+,\n(  \w+ = \{.+\},\n){5}\}', paper.bibtex)


def test_config_and_folder(checkpoint, tmp_path):
    path, _ = checkpoint
    export_hub(path, tmp_path / 'hub', license='cc-by-4.0')
    config = json.loads((tmp_path / 'hub/config.json').read_text())
    own = config['pretrained_cfg']
    assert config['label_names'] == [f'class {i}' for i in range(4)]
    assert (own['license'], own['tag']) == ('cc-by-4.0', 'dks_digits')
    assert own['paper_ids'] == ['arXiv:1906.00675']
    cited = re.findall(r'@\w+\{(.*),', (tmp_path / 'hub/README.md').read_text())
    assert cited == ['sun2019dks', 'luo2022dskd']
    assert stat.S_IMODE((tmp_path / 'hub').stat().st_mode) == 0o755
    assert 'as trained, after epoch 4 |' in (tmp_path / 'hub/README.md').read_text()


def test_nothing_of_timms_own_weights_is_claimed(tmp_path, monkeypatch):
    net = timm.create_model('resnet10t', num_classes=4)
    assert net.pretrained_cfg['origin_url']
    net.pretrained_cfg['paper_name'] = 'Another'
    monkeypatch.setattr(hub, 'load', lambda _: (net, None))
    card = {'data': {'crop_pct': 1.0}, 'tag': 'dks', 'method': 'dks'}
    own = hub.hub_config(tmp_path, card, 'mit')['pretrained_cfg']
    assert (own['crop_pct'], own['tag']) == (1.0, 'dks')
    assert not {'label_names', 'origin_url', 'paper_name'} & own.keys()


def test_architectures_that_timm_has_without_us():
    known = {name: is_timm_arch(name) for name in ('resnet18', 'cifar_resnet8', 'dks_resnet18')}
    assert known == {'resnet18': True, 'cifar_resnet8': False, 'dks_resnet18': False}


def test_the_place_of_a_folder(tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to('empty')
    (tmp_path / 'astray').symlink_to('nowhere')
    for name in ('link', 'astray'):
        with pytest.raises(ValueError, match='exists and is not an empty folder'):
            check_folder(tmp_path / name)
    monkeypatch.chdir(tmp_path / 'empty')
    assert check_folder('.') == tmp_path / 'empty'
    monkeypatch.setattr('os.access', lambda *_: False)
    with pytest.raises(ValueError, match='cannot make a folder in'):
        check_folder('hub')


def test_an_empty_folder_is_replaced_on_windows_too(run_folder, tmp_path, monkeypatch):
    (tmp_path / 'hub').mkdir()

    def replace(source, target, replace=os.replace):
        if Path(target).is_dir():
            raise PermissionError(errno.EACCES, 'Access is denied')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    export_hub(run_folder[0], tmp_path / 'hub')
    assert (tmp_path / 'hub/config.json').exists()


def test_the_name_of_a_folder_is_flushed(run_folder, tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(hub, 'sync', lambda path: flushed.append((path, (tmp_path / 'hub').exists())))
    export_hub(run_folder[0], tmp_path / 'hub')
    assert flushed == [(tmp_path, True)]


def test_a_design_of_ones_own_is_named_in_the_model_card(run_folder, tmp_path):
    card = export_hub(run_folder[0], tmp_path / 'hub')
    for design, name in (({'name': 'mine', 'branches': []}, 'mine'), ({'branches': []}, 'own'), ('dks', 'dks')):
        assert f'| method | `dks`, branches `{name}` |' in fact_lines({**card, 'design': design}, 'mit')


def test_a_folder_that_timm_reads_otherwise_is_not_kept(checkpoint, tmp_path, monkeypatch):
    path, _ = checkpoint
    plain = timm.data.resolve_model_data_config
    monkeypatch.setattr(hub.timm.data, 'resolve_model_data_config', lambda net: {**plain(net), 'std': (0.9,) * 3})
    with pytest.raises(VerificationFailed, match='another std'):
        export_hub(path, tmp_path / 'hub')
    assert not (tmp_path / 'hub').exists()


@pytest.mark.parametrize('mask', [0o002, 0o077])
def test_a_folder_has_the_mode_of_any_other(run_folder, tmp_path, mask):
    path, _ = run_folder
    before = os.umask(mask)
    try:
        export_hub(path, tmp_path / 'hub')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'hub').stat().st_mode) == 0o777 & ~mask
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / 'hub').iterdir()} == {0o666 & ~mask}


def test_a_folder_is_whole_or_not_there(run_folder, tmp_path, run_cli, monkeypatch):
    path, _ = run_folder
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').touch()
    before = sorted(p.name for p in tmp_path.rglob('*'))
    code, _, err = run_cli('export', path, '--hub-dir', 'full')
    assert code == 2
    assert 'exists and is not an empty folder (name a new one)' in err.splitlines()[-1]

    made = timm.create_model

    def spoil(name, **kwargs):
        return made('cifar_resnet8', num_classes=4, in_chans=1) if ':' in name else made(name, **kwargs)

    monkeypatch.setattr(hub.timm, 'create_model', spoil)
    with pytest.raises(VerificationFailed, match='another network from the hub folder'):
        export_hub(path, tmp_path / 'hub')
    assert sorted(p.name for p in tmp_path.rglob('*')) == before


@pytest.mark.slow
def test_training_from_a_hub_folder_exports_what_stands_without_it(run_folder, tmp_path, run_cli):
    path, _ = run_folder
    export_hub(path, tmp_path / 'hub')
    short = ('--epochs', 1, '--train-num-samples', 200, '--device', 'cpu', '--export', 'o.safetensors')
    code, _, err = run_cli('train', '--model', f'local-dir:{tmp_path / "hub"}', '--dataset', 'digits', *short)
    assert code == 0, err
    shutil.rmtree(tmp_path / 'hub')
    model, _ = dkszoo.load(tmp_path / 'o.safetensors')
    card = json.loads((tmp_path / 'o.json').read_text())
    assert card['arch'] == 'cifar_resnet8'
    assert (model.num_classes, model.conv1.out_channels) == (10, 4)


def test_images_are_prepared_as_the_folder_says(make_checkpoint, tmp_path):
    path, _ = make_checkpoint('cifar_resnet8', dict(num_classes=2, in_chans=3), (3, 40, 40))
    export_hub(path, tmp_path / 'hub')
    name = f'local-dir:{tmp_path / "hub"}'
    for place in ('train/a', 'train/b', 'test/a', 'test/b'):
        (tmp_path / place).mkdir(parents=True)
        for i in range(4):
            Image.new('RGB', (40, 40)).save(tmp_path / place / f'{i}.png')
    config, _ = open_data(TrainConfig(model=name, pretrained=True, dataset='', data_dir=str(tmp_path), val_split=0.25))
    assert (config.img_size, config.mean, config.std) == (40, (0.5,) * 3, (0.2,) * 3)
    assert (config.interpolation, config.crop_pct) == ('bilinear', 1.0)
    with pytest.raises(ValueError, match=r'cannot make model .* \(check the folder'):
        open_data(TrainConfig(model=f'{name}x', dataset='digits'))


def test_a_folders_classes_are_compared_as_a_teachers(make_checkpoint, tmp_path):
    path, _ = make_checkpoint('cifar_resnet8', dict(num_classes=10, in_chans=1), (1, 32, 32))
    export_hub(path, tmp_path / 'hub')
    config, data = open_data(TrainConfig(method='kd', kd_model_name=f'local-dir:{tmp_path / "hub"}', device='cpu'))
    with pytest.raises(ValueError, match="learned other classes: only there 'class 0'"):
        build_teacher(config, data.classes)


def test_the_recipe_of_a_folder_of_images_says_so():
    assert yaml.safe_load(recipe({'dataset': '', 'data_dir': 'D', 'aa': None, 'lr': 0.1})) == {'dataset': '', 'lr': 0.1}


def test_no_place_is_in_a_recipe():
    places = {'data_dir': '/a', 'initial_checkpoint': '/b', 'kd_checkpoint': '/c', 'output': 'o', 'device': 'cpu'}
    assert yaml.safe_load(recipe({'lr': 0.1, **places})) == {'lr': 0.1}
    assert yaml.safe_load(recipe({'model': 'local-dir:/a', 'lr': 0.1})) == {'model': 'local-dir:DIR', 'lr': 0.1}
