"""Any timm model on a folder of images: from a checkpoint, with fresh branches, to a file that plain timm loads."""

import json

import pytest
import safetensors.torch
import timm
import torch

MODELS = {
    'convnext_atto': ('mirror', []),
    'efficientnet_b0': ('mirror', []),
    'regnety_002': ('mirror', []),
    'resnet18': ('dks', []),
    'vit_tiny_patch16_224': ('linear', ['--model-kwargs', 'img_size=64']),
}


def write_folder(root, classes=4, train=16, test=4):
    """Digits as colour images of 64 pixels: root/{train,test}/CLASS/N.png."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(classes):
        images = digits.images[digits.target == label]
        for i in range(train + test):
            folder = root / ('train' if i < train else 'test') / f'digit{label}'
            folder.mkdir(parents=True, exist_ok=True)
            gray = Image.fromarray((images[i] * (255 / 16)).round().astype('uint8'))
            gray.resize((64, 64), Image.Resampling.BILINEAR).convert('RGB').save(folder / f'{i}.png')


def finetune(run_cli, tmp_path, model, extra=(), **folder):
    """Save a timm model, fine-tune it with branches, export it; returns the export's card."""
    write_folder(tmp_path / 'data', **folder)
    arguments = {'img_size': 64} if model.startswith('vit') else {}
    torch.manual_seed(0)
    start = timm.create_model(model, num_classes=1000, **arguments)
    torch.save({'state_dict': start.state_dict(), 'epoch': 3}, tmp_path / 'start.pth')
    design, more = MODELS.get(model, ('mirror', []))
    command = ['train', '--model', model, '--method', 'dks', '--dataset', '', '--data-dir', 'data', '--epochs', '1']
    command += ['--img-size', '64', '-b', '16', '--val-split', '0', '--best-on', 'test', '--lr', '0.01', '-j', '0']
    code, out, err = run_cli(*command, *more, *extra, '--export', 'out.safetensors')
    assert code == 0, err
    assert 'verified' in out
    card = json.loads((tmp_path / 'out.json').read_text())
    assert card['design'] == design
    return card


def loads_in_plain_timm(tmp_path, card):
    plain = timm.create_model(card['arch'], **card['model_args'])
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / 'out.safetensors'), strict=True)
    assert plain(torch.randn(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.slow
@pytest.mark.parametrize('model', MODELS)
def test_each_trains_and_exports(run_cli, tmp_path, model):
    loads_in_plain_timm(tmp_path, finetune(run_cli, tmp_path, model))


def test_fine_tuning(run_cli, tmp_path, caplog):
    """From a checkpoint of 1000 classes to 4 new ones; the branches have their own rate and warm-up."""
    extra = ['--initial-checkpoint', 'start.pth', '--branch-lr-scale', '10', '--branch-warmup-epochs', '1']
    card = finetune(run_cli, tmp_path, 'test_resnet', extra, train=8, test=2)
    loads_in_plain_timm(tmp_path, card)
    start = torch.load(tmp_path / 'start.pth', weights_only=True)['state_dict']
    end = safetensors.torch.load_file(tmp_path / 'out.safetensors')
    moved = {key: ((end[key] - start[key]).norm() / start[key].norm()).item() for key in end if end[key].ndim == 4}
    assert 0 < max(moved.values()) < 0.5  # the backbone started from the checkpoint
