"""Names of data sets: those timm knows are opened; all others are rejected, never read as an image folder."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dkszoo.data import check_dataset, class_targets, open_dataset
from dkszoo.engine import TrainConfig


@pytest.mark.parametrize('name', ['', 'torch/folder', 'Torch/image_folder'])
def test_image_folders(tmp_path, name):
    for place in ('train/cat', 'train/dog', 'val/cat', 'val/dog'):
        (tmp_path / place).mkdir(parents=True)
        Image.new('RGB', (4, 4)).save(tmp_path / place / 'image.png')
    for split in ('train', 'test'):
        assert len(open_dataset(name, str(tmp_path), split)) == 2
    with pytest.raises(ValueError, match="'foo' is unknown"):
        open_dataset('foo', str(tmp_path), 'train')


@pytest.mark.parametrize('name', ['digits', 'torch/MNIST', 'torch/imagenet', 'HFDS/Owner/Name'])
def test_known_names(name):
    check_dataset(name)


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('cifar11', "did you mean 'torch/cifar10"),
        ('torch/fashionmnist', "did you mean 'torch/fashion_mnist'"),
        ('torch/digits', "did you mean 'digits'"),
        ('Digits', "did you mean 'digits'"),
        ('hfd/a', 'did you mean hfds/'),
        ('tfds/a:1', 'only be read in sequence'),
        ('ImageFolder', "'' for the image folder --data-dir"),
        ('torch/', 'choose digits'),
        ('/', 'choose digits'),
    ],
)
def test_unknown_names(name, hint):
    with pytest.raises(ValueError, match=hint):
        check_dataset(name)
    with pytest.raises(ValueError, match=hint):  # also before a grid starts a run
        TrainConfig(dataset=name, data_dir='.')


@pytest.mark.parametrize(
    ('splits', 'taken'), [(('train', 'validation', 'test'), 'validation'), (('train', 'test'), 'test')]
)
def test_the_test_set_of_timms_is_validation_where_there_is_one(monkeypatch, splits, taken):
    def create(name, root, split):
        if split not in splits:
            raise ValueError(f'no split {split}')
        return [split]

    monkeypatch.setattr('dkszoo.data.datasets.create_dataset', create)
    assert open_dataset('hfds/a/b', None, 'test') == [taken]
    assert open_dataset('hfds/a/b', None, 'train') == ['train']
    with pytest.raises(ValueError, match=r'cannot open data set .*: no split other'):
        open_dataset('hfds/a/b', None, 'other')


def test_a_data_set_without_samples(monkeypatch):
    monkeypatch.setattr('dkszoo.data.datasets.create_dataset', lambda *_, **__: [])
    with pytest.raises(ValueError, match="data set 'hfds/a/b' is empty"):
        open_dataset('hfds/a/b', None, 'train')


def test_targets_in_a_table():
    """QMNIST: the class is the first column."""
    dataset = SimpleNamespace(targets=torch.tensor([[3, 0, 7], [5, 1, 7]]))
    assert class_targets(dataset) == [3, 5]
