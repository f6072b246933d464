"""How images are resized and cropped: the model's own way above 64 px, as DKS does on ImageNet with its networks."""

import json

import pytest
import torch
from PIL import Image

import dkszoo
from dkszoo.data import Augmentation, train_transform
from dkszoo.engine import TrainConfig
from dkszoo.engine.data import open_data

SQUASH = {'interpolation': 'bicubic', 'crop_pct': 0.875, 'crop_mode': 'squash'}


@pytest.fixture
def folder(tmp_path):
    for split in ('train', 'val'):
        for name in ('a', 'b'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                ramp().save(tmp_path / split / name / f'{i}.png')
    return tmp_path


def ramp() -> Image.Image:
    """Twice as wide as high, black at the left, white at the right."""
    return Image.linear_gradient('L').rotate(90).resize((600, 300)).convert('RGB')


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        ({'model': 'dks_resnet18'}, SQUASH),
        ({'model': 'resnet18'}, {'interpolation': 'bicubic', 'crop_pct': 0.95, 'crop_mode': 'center'}),
        (
            {'model': 'dks_resnet18', 'img_size': 64},
            {'interpolation': 'bilinear', 'crop_pct': 1.0, 'crop_mode': 'center'},
        ),
        ({'model': 'resnet18', 'crop_mode': 'squash', 'crop_pct': 0.875}, SQUASH),
        ({'model': 'volo_d4_448'}, {'interpolation': 'bicubic', 'crop_pct': 1.15, 'crop_mode': 'center'}),
    ],
)
def test_what_was_given_else_the_models_own(folder, settings, expected):
    config, _ = open_data(TrainConfig(dataset='', data_dir=str(folder), val_split=0.25, **settings))
    assert {key: getattr(config, key) for key in expected} == expected


def test_what_a_file_leaves_open_is_the_models_own(tmp_path):
    args = {'num_classes': 10, 'in_chans': 1}
    data = {'input_size': [1, 96, 96], 'mean': [0.5], 'std': [0.5], 'crop_pct': None}
    model = {'arch': 'cifar_resnet8', 'model_args': args, 'data': data}
    state = dkszoo.create_model('cifar_resnet8', **args).state_dict()
    torch.save({'state_dict': state, 'dkszoo': {'model': model}}, tmp_path / 'w.pth')
    config, _ = open_data(TrainConfig(model='cifar_resnet8', img_size=96, initial_checkpoint=str(tmp_path / 'w.pth')))
    assert (config.mean, config.crop_pct) == ((0.5,), 1.0)


def test_a_run_and_its_export_look_at_the_same_part_of_an_image(run_cli, folder):
    small = ('--model', 'test_resnet', '--img-size', '96', '--crop-mode', 'squash', '--train-crop-mode', 'squash')
    data = ('--dataset', '', '--data-dir', str(folder), '--val-split', '0.25', '--batch-size', '2', '--workers', '0')
    stats = ('--crop-pct', '0.75', '--mean', '0', '0', '0', '--std', '1', '1', '1', '--interpolation', 'bilinear')
    run = ('--method', 'ds', '--epochs', '1', '--experiment', 'r', '--device', 'cpu', '--export', 'r.safetensors')
    code, _, err = run_cli('train', *small, *data, *stats, *run)
    assert code == 0, err
    _, transform = dkszoo.load('r.safetensors')
    row = transform(ramp())[0, 48]
    assert torch.allclose(row, torch.linspace(0.125, 0.875, 96), atol=0.02)
    code, out, err = run_cli('validate', '--checkpoint', 'runs/r/last.pth.tar', '--data-dir', str(folder))
    assert code == 0, err
    figures = json.loads((folder / 'runs/r/run.json').read_text())['result']['last']
    assert json.loads(out.splitlines()[-1])['loss'] == pytest.approx(figures['loss'], rel=1e-6)


def test_squash_never_falls_below_the_crop():
    """timm has models of crop_pct 1.15."""
    image = Image.new('RGB', (120, 90))
    transform = train_transform(96, (0.5,) * 3, (0.5,) * 3, Augmentation(), crop_mode='squash', crop_pct=1.15)
    assert transform(image).shape == (3, 96, 96)


def test_squash_takes_no_policy():
    with pytest.raises(ValueError, match='--aa'):
        TrainConfig(train_crop_mode='squash', aa='rand-m9')
