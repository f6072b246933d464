"""Data sets of small images: files are read as they were written; damaged or hostile ones raise a ValueError."""

import codecs
import gzip
import os
import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from small_files import idx_bytes, python2_batch, write_cifar, write_idx
from torchvision import datasets

import dkszoo
from dkszoo.data import class_names, class_targets, data_facts, open_dataset
from dkszoo.data.datasets import OPENERS, check_dataset
from dkszoo.data.facts import DATA_FACTS, NORMALISATION
from dkszoo.data.images import ArrayImages

FOLDERS = {'torch/mnist': 'MNIST', 'torch/fashion_mnist': 'FashionMNIST', 'torch/kmnist': 'KMNIST'}
DEBIAN = Path('/usr/share/datasets/fashion-mnist')  # dataset-fashion-mnist
IMAGES, LABELS = 'train-images-idx3-ubyte', 'train-labels-idx1-ubyte'


def pixels(dataset) -> np.ndarray:
    return np.stack([np.asarray(dataset[i][0]) for i in range(len(dataset))])


def check(dataset, images, labels):
    assert np.array_equal(pixels(dataset), images)
    assert [dataset[i][1] for i in range(len(dataset))] == labels.tolist() == class_targets(dataset)


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('flat', [False, True])
@pytest.mark.parametrize('name', FOLDERS)
def test_idx_sets(tmp_path, name, flat, packed):
    parts = write_idx(tmp_path if flat else tmp_path / FOLDERS[name] / 'raw', packed)
    for split, (images, labels) in parts.items():
        dataset = open_dataset(name, str(tmp_path), split)
        check(dataset, images, labels)
        assert class_names(dataset) == getattr(datasets, FOLDERS[name]).classes
        assert dataset[0][0].mode == 'L'


def test_idx_as_torchvision_reads_it(tmp_path):
    write_idx(tmp_path / 'FashionMNIST' / 'raw', packed=False)
    ours, theirs = open_dataset('torch/fashion_mnist', str(tmp_path), 'test'), datasets.FashionMNIST(tmp_path, False)
    check(ours, theirs.data.numpy(), theirs.targets)


@pytest.mark.parametrize('keys', [str, str.encode])
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('num_classes', [10, 100])
def test_cifar(tmp_path, num_classes, protocol, keys):
    parts = write_cifar(tmp_path, num_classes, protocol, keys)
    for split, (images, labels) in parts.items():
        dataset = open_dataset(f'torch/cifar{num_classes}', str(tmp_path), split)
        check(dataset, images, labels)
        assert class_names(dataset) == [f'class{i}' for i in range(num_classes)]
        assert dataset[0][0].mode == 'RGB'


def test_cifar_as_python_2_wrote_it(tmp_path):
    images, labels = write_cifar(tmp_path, 10)['test']
    batch = python2_batch(images.transpose(0, 3, 1, 2).reshape(len(images), 3072), labels.tolist())
    (tmp_path / 'cifar-10-batches-py/test_batch').write_bytes(batch)
    assert pickle.loads(batch, encoding='bytes')[b'labels'] == labels.tolist()
    check(open_dataset('torch/cifar10', str(tmp_path), 'test'), images, labels)


def test_cifar_from_its_own_folder(tmp_path):
    images, labels = write_cifar(tmp_path, 100)['test']
    check(open_dataset('Torch/CIFAR100', str(tmp_path / 'cifar-100-python'), 'validation'), images, labels)


def test_an_array_stored_by_columns(tmp_path):
    images, labels = write_cifar(tmp_path, 100)['test']
    flat = np.asfortranarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))
    contents = {'data': flat, 'fine_labels': labels.tolist()}
    (tmp_path / 'cifar-100-python/test').write_bytes(pickle.dumps(contents, 5))
    check(open_dataset('torch/cifar100', str(tmp_path), 'test'), images, labels)


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


IDX_DAMAGE = {
    'missing': (IMAGES, os.remove, 'no file train-images-idx3-ubyte'),
    'no bytes': (IMAGES, lambda p: p.write_bytes(b''), 'not an idx'),
    'short header': (IMAGES, lambda p: damage(p, lambda b: b[:10]), 'truncated'),
    'magic': (IMAGES, lambda p: damage(p, lambda b: b'\x1f' + b[1:]), 'not an idx'),
    'floats': (IMAGES, lambda p: p.write_bytes(idx_bytes(np.zeros((2, 28, 28), 'uint8'), kind=0x0D)), 'not an idx'),
    'dimensions': (IMAGES, lambda p: p.write_bytes(idx_bytes(np.zeros(4, 'uint8'))), 'not an idx'),
    'no images': (IMAGES, lambda p: p.write_bytes(idx_bytes(np.zeros((0, 28, 28), 'uint8'))), 'empty'),
    'a byte less': (IMAGES, lambda p: damage(p, lambda b: b[:-1]), 'too short'),
    'half': (IMAGES, lambda p: damage(p, lambda b: b[: len(b) // 2]), 'truncated'),
    'too long': (IMAGES, lambda p: damage(p, lambda b: b + b'\0'), 'too long'),
    'boast': (
        IMAGES,
        lambda p: damage(p, lambda b: b[:4] + struct.pack('>3I', *[2**32 - 1] * 3) + b[16:]),
        'truncated',
    ),
    'fewer labels': (LABELS, lambda p: p.write_bytes(idx_bytes(np.zeros(7, 'uint8'))), '40 images .* 7 labels'),
    'label': (LABELS, lambda p: p.write_bytes(idx_bytes(np.full(40, 10, 'uint8'))), 'label 10'),
}


@pytest.mark.parametrize('case', IDX_DAMAGE)
def test_damaged_idx(tmp_path, case):
    write_idx(tmp_path, packed=False)
    name, change, message = IDX_DAMAGE[case]
    change(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        open_dataset('torch/mnist', str(tmp_path), 'train')


@pytest.mark.parametrize(
    'change',
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-8] + b'\0' * 8,
        lambda data: gzip.decompress(data),
        lambda data: data[:20] + bytes(byte ^ 255 for byte in data[20:40]) + data[40:],
        lambda data: gzip.compress(gzip.decompress(data)[:-100]),
        lambda data: gzip.compress(gzip.decompress(data)[:4] + struct.pack('>3I', 2**31, 28, 28)),
    ],
    ids=['half', 'checksum', 'plain', 'scrambled', 'short', 'boast'],
)
def test_damaged_gzip(tmp_path, change):
    write_idx(tmp_path, packed=True)
    damage(tmp_path / f'{IMAGES}.gz', change)
    with pytest.raises(ValueError, match=r'truncated|too short'):
        open_dataset('torch/mnist', str(tmp_path), 'train')


class Payload:
    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


def hostile_files(marker: str) -> dict:
    good = {b'data': np.zeros((2, 3072), np.uint8), b'fine_labels': [0, 1]}
    run = Payload(os.system, f'touch {marker}')
    return {
        'system': (run, 'posix.system'),
        'hidden': ({**good, b'filenames': [run]}, 'posix.system'),
        'eval': ({**good, b'data': Payload(eval, f'open({marker!r}, "w")')}, 'eval'),
        'getattr': (Payload(getattr, 'text', 'upper'), 'getattr'),
        'objects': ({**good, b'data': np.array([[run]], dtype=object)}, 'array of object'),
        'object array': ({**good, b'data': np.array([['a']], dtype=object)}, 'array of object'),
        'codec': ({**good, b'filenames': [Payload(codecs.encode, '\u20ac', 'hex')]}, 'latin-1'),
        'list': ([1, 2], 'holds a list'),
        'no images': ({b'fine_labels': [0, 1]}, 'no images'),
        'floats': ({**good, b'data': np.zeros((2, 3072))}, 'array of float64'),
        'shape': ({**good, b'data': np.zeros((2, 1024), np.uint8)}, 'no images'),
        'wide numbers': ({**good, b'data': np.zeros((2, 3072), np.int32)}, 'no images'),
        'labels missing': ({b'data': good[b'data']}, 'label'),
        'label of no dimension': ({**good, b'fine_labels': np.array(1)}, 'label'),
        'few labels': ({**good, b'fine_labels': [0]}, 'label'),
        'large label': ({**good, b'fine_labels': [0, 100]}, 'labels that are not 0 to 99'),
        'text label': ({**good, b'fine_labels': ['0', '1']}, 'labels that are not 0 to 99'),
        'empty': ({b'data': np.zeros((0, 3072), np.uint8), b'fine_labels': []}, r'label|bytes'),
    }


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('case', hostile_files(''))
def test_hostile_and_damaged_pickles(tmp_path, case, protocol):
    write_cifar(tmp_path, 100)
    marker = tmp_path / 'ran'
    contents, message = hostile_files(str(marker))[case]
    (tmp_path / 'cifar-100-python' / 'train').write_bytes(pickle.dumps(contents, protocol))
    with pytest.raises(ValueError, match=message):
        open_dataset('torch/cifar100', str(tmp_path), 'train')
    assert not marker.exists()


FORGED = {  # images of which the file has less than it says
    'made by the file': Payload(np.ndarray, (10, 3072), 'u1', b'a', 0, (0, 0)),
    'one byte': Payload(np._core.numeric._frombuffer, b'a', np.dtype('u1'), (2, 3072), 'C'),
}


@pytest.mark.parametrize('case', FORGED)
def test_arrays_larger_than_the_file(tmp_path, case):
    write_cifar(tmp_path, 100)
    contents = pickle.dumps({b'data': FORGED[case], b'fine_labels': [0, 1]}, 2)
    (tmp_path / 'cifar-100-python' / 'train').write_bytes(contents)
    with pytest.raises(ValueError, match='is damaged'):
        open_dataset('torch/cifar100', str(tmp_path), 'train')


def test_flags_of_a_dtype_are_not_taken_from_a_file(tmp_path):
    """NumPy would then follow the numbers of an array as references to objects."""
    write_cifar(tmp_path, 100)
    contents = pickle.dumps({b'data': np.zeros((2, 3072), np.uint8), b'fine_labels': [0, 1]}, 2)
    assert contents.count(b'K\x00tq\x14b') == 1
    (tmp_path / 'cifar-100-python' / 'train').write_bytes(contents.replace(b'K\x00tq\x14b', b'K\x01tq\x14b'))
    images = open_dataset('torch/cifar100', str(tmp_path), 'train').images
    assert images.dtype.flags == 0


@pytest.mark.parametrize('contents', [b'\x80\x02]r\xff\xff\xff\x0f.', b'\x80\x05\x96\0\0\0\x80\0\0\0\0.'])
def test_numbers_and_sizes_that_boast(tmp_path, contents):
    """An unpickler would allocate gigabytes: the one in C for the number, the one in Python for the size."""
    write_cifar(tmp_path, 100)
    (tmp_path / 'cifar-100-python' / 'train').write_bytes(contents)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match='is damaged'):
        open_dataset('torch/cifar100', str(tmp_path), 'train')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # KiB


@pytest.mark.parametrize('change', [lambda d: b'', lambda d: d[: len(d) // 2], lambda d: b'junk' + d])
def test_broken_pickles(tmp_path, change):
    write_cifar(tmp_path, 10)
    damage(tmp_path / 'cifar-10-batches-py' / 'data_batch_3', change)
    with pytest.raises(ValueError, match=r'data_batch_3.* is damaged'):
        open_dataset('torch/cifar10', str(tmp_path), 'train')
    assert len(open_dataset('torch/cifar10', str(tmp_path), 'test')) == 20


@pytest.mark.parametrize('name', ['bars', 'torch/bars'])
def test_a_data_set_of_your_own_is_two_entries(name, tmp_path, monkeypatch):
    """What docs/data.md says."""
    images = ArrayImages(np.zeros((4, 32, 32), np.uint8), [0, 1, 0, 1], ['flat', 'steep'])
    monkeypatch.setitem(DATA_FACTS, name, data_facts('torch/mnist'))
    monkeypatch.setitem(OPENERS, name, lambda name, data_dir, train: images)
    assert open_dataset(name, str(tmp_path), 'train') is images
    check_dataset(name)
    if name.startswith('torch/'):
        with pytest.raises(ValueError, match=r'no data folder .*give another --data-dir'):
            open_dataset(name, str(tmp_path / 'none'), 'train')


def test_missing_files(tmp_path):
    write_cifar(tmp_path, 10)
    (tmp_path / 'cifar-10-batches-py' / 'batches.meta').unlink()
    with pytest.raises(ValueError, match=r'no file batches\.meta'):
        open_dataset('torch/cifar10', str(tmp_path), 'train')
    with pytest.raises(ValueError, match='no file meta'):
        open_dataset('torch/cifar100', str(tmp_path), 'train')
    with pytest.raises(ValueError, match='--data-dir'):
        open_dataset('torch/cifar100', None, 'train')
    with pytest.raises(ValueError, match='no split'):
        open_dataset('torch/cifar10', str(tmp_path), 'extra')


@pytest.mark.parametrize('name', [*FOLDERS, 'torch/cifar10', 'torch/cifar100'])
def test_what_is_not_there_is_named_with_the_call_that_fetches_it(tmp_path, name):
    for folder in (tmp_path, tmp_path / 'new'):
        with pytest.raises(ValueError, match='or fetch it: ') as raised:
            open_dataset(name, str(folder), 'train')
        call = str(raised.value).partition('or fetch it: ')[2].removesuffix(')')
        kind = call.removeprefix('torchvision.datasets.').partition('(')[0]
        assert call == f'torchvision.datasets.{kind}({str(folder)!r}, download=True)'
        assert getattr(datasets, kind).__name__.lower() == name.removeprefix('torch/').replace('_', '')


def test_networks_for_gray_images_are_not_measured_on_colour(run_cli, tmp_path):
    write_cifar(tmp_path, 10)
    torch.save(dkszoo.create_model('cifar_resnet8', num_classes=10, in_chans=1).state_dict(), tmp_path / 'gray.pth')
    assert run_cli('convert', 'gray.pth', 'gray.safetensors')[0] == 0
    colour = ('--dataset', 'torch/cifar10', '--data-dir', '.')
    code, _, err = run_cli('validate', '--checkpoint', 'gray.safetensors', *colour, '--device', 'cpu')
    assert code == 2
    assert 'has colour images, the model takes 1 channel' in err.splitlines()[-1]


def test_facts_agree_with_the_digits():
    images = pixels(open_dataset('digits', None, 'train')) / 255
    facts = data_facts('digits')
    assert facts.mean == (round(images.mean(), 4),)
    assert facts.std == (round(images.std(), 4),)
    assert facts.num_train == len(images)
    test = open_dataset('digits', None, 'test')
    assert facts.num_test == len(test)
    assert np.bincount(class_targets(test)).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason='Fashion-MNIST is not on this machine')
def test_facts_agree_with_fashion_mnist():
    train, facts = open_dataset('torch/fashion_mnist', str(DEBIAN), 'train'), data_facts('torch/fashion_mnist')
    assert (train.images.mean() / 255, train.images.std() / 255) == (
        pytest.approx(facts.mean[0], abs=6e-5),
        pytest.approx(facts.std[0], abs=6e-5),
    )
    assert len(train) == facts.num_train


@pytest.mark.parametrize(
    ('name', 'expected'),  # channels, side, padding, flip probability, classes, images
    [
        ('digits', (1, 32, 2, 0.0, 10, 1438, 359)),
        ('torch/cifar10', (3, 32, 4, 0.5, 10, 50_000, 10_000)),
        ('torch/cifar100', (3, 32, 4, 0.5, 100, 50_000, 10_000)),
        ('torch/mnist', (1, 32, 2, 0.0, 10, 60_000, 10_000)),
        ('torch/fashion_mnist', (1, 32, 4, 0.5, 10, 60_000, 10_000)),
        ('torch/kmnist', (1, 32, 2, 0.0, 10, 60_000, 10_000)),
    ],
)
def test_facts(name, expected):
    facts = data_facts(name)
    assert facts == data_facts(name.upper())
    counts = (facts.num_classes, facts.num_train, facts.num_test)
    assert (facts.in_chans, facts.img_size, facts.pad, facts.hflip, *counts) == expected


@pytest.mark.parametrize(
    ('name', 'mean', 'std'),
    [
        ('torch/cifar100', (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ('torch/mnist', (0.1307,), (0.3081,)),
        ('torch/kmnist', (0.1918,), (0.3483,)),
    ],
)
def test_the_usual_normalisation(name, mean, std):
    assert (data_facts(name).mean, data_facts(name).std) == (mean, std)


def test_normalisation_constants():
    for name, (mean, std) in NORMALISATION.items():
        assert len(mean) == len(std) in (1, 3), name
    assert np.multiply(NORMALISATION['c10u8'], 255).round(1).tolist() == [[125.3, 123.0, 113.9], [63.0, 62.1, 66.7]]
    assert np.allclose(NORMALISATION['c10b'], NORMALISATION['c10'], atol=6e-5)
    assert NORMALISATION['c10c'] == (NORMALISATION['c10'][0], (0.2023, 0.1994, 0.2010))
