"""Image folders as users have them: damaged files, different classes, a missing folder level."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_files import write_cifar

import dkszoo
from dkszoo.data import UnreadableImage, View, class_names, class_targets, open_dataset, read_sample
from dkszoo.engine import TrainConfig
from dkszoo.engine.data import open_data

TRAIN = (
    *('train', '--dataset', '', '--data-dir', '.', '--model', 'cifar_resnet8', '--img-size', '32', '--device', 'cpu'),
    *('--model-kwargs', 'channels=[4,8,16]', 'stem_chs=4', '--epochs', '1', '--batch-size', '8', '--experiment', 'r'),
)


def make(folder, total: int, classes=('a', 'b'), splits=('train', 'test')):
    """Gray images, each of a different level."""
    for split in splits:
        for i, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for n in range(total):
                image = Image.new('L', (32, 32), (n + i * total) % 256)
                image.save(folder / split / name / f'{n:03}.png')


def test_a_test_folder_goes_before_a_validation_folder(tmp_path):
    for split, total in (('train', 1), ('val', 2), ('test', 3)):
        make(tmp_path, total, splits=(split,))
    assert len(open_dataset('', str(tmp_path), 'test')) == 2 * 3


@pytest.mark.parametrize('place', ['', 'train', 'train/b'])
def test_folders_that_cannot_be_listed_are_named(tmp_path, monkeypatch, place):
    """timm would skip the classes in them."""
    make(tmp_path, 2)
    hidden, scandir, isdir = str(tmp_path / place).rstrip('/'), os.scandir, os.path.isdir

    def scan(path):
        if os.fspath(path) == hidden:
            raise PermissionError(13, 'Permission denied', hidden)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', scan)
    monkeypatch.setattr(os.path, 'isdir', lambda path: not os.fspath(path).startswith(f'{hidden}/') and isdir(path))
    with pytest.raises(ValueError, match=re.escape(f"cannot read folder '{hidden}': Permission denied")):
        open_dataset('', str(tmp_path), 'train')


def test_classes_that_are_numbers_stand_in_their_order(tmp_path):
    make(tmp_path, 1, classes=('10', '9'))
    dataset = open_dataset('', str(tmp_path), 'train')
    assert class_names(dataset) == ['9', '10']
    assert [os.path.dirname(dataset.filename(i)) for i in np.argsort(class_targets(dataset))] == ['9', '10']


def test_images_of_other_kinds_are_missed(tmp_path, caplog):
    """timm skips them, and a class without any others."""
    make(tmp_path, 2)
    image = Image.new('L', (32, 32))
    for place in ('train/cover.webp', 'train/a/x.tif', 'train/a/x.txt', 'train/a/y.BMP'):
        image.save(tmp_path / place, 'png')
    assert len(open_dataset('', str(tmp_path), 'train')) == 4
    assert f'{tmp_path}/train: 3 images are skipped, as only .png, .jpg, .jpeg files are read' in caplog.text
    (tmp_path / 'train/c').mkdir()
    image.save(tmp_path / 'train/c/x.txt', 'png')
    assert len(open_dataset('', str(tmp_path), 'train')) == 4
    image.save(tmp_path / 'train/c/x.webp', 'png')
    with pytest.raises(ValueError, match=r"/train/c' has no \.png, .* \(convert its \.webp files, or remove it\)"):
        open_dataset('', str(tmp_path), 'train')


def test_a_class_that_is_a_link_is_looked_into(tmp_path):
    make(tmp_path, 2)
    (tmp_path / 'elsewhere').mkdir()
    Image.new('L', (32, 32)).save(tmp_path / 'elsewhere/x.webp', 'png')
    (tmp_path / 'train/c').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(ValueError, match=r'convert its \.webp files'):
        open_dataset('', str(tmp_path), 'train')


@pytest.mark.parametrize(
    'links', [{'a/up': '..'}, {'a/up': '../..'}, {'a/up': '.'}, {'a/b': '../b', 'b/a': '../a'}], ids=str
)
def test_a_link_to_a_folder_above_is_named(tmp_path, links):
    """timm would take its images up to 40 times, or look for ever. No folder is named whose removal would cost data."""
    make(tmp_path, 2)
    for name, target in links.items():
        (tmp_path / 'train' / name).symlink_to(target)
    with pytest.raises(ValueError, match=r'is a link to a folder that it is in \(remove the link\)') as raised:
        open_dataset('', str(tmp_path), 'train')
    assert os.path.islink(str(raised.value).split("'")[1])


def test_a_folder_that_is_linked_twice_is_no_loop(tmp_path):
    make(tmp_path, 2)
    for name in ('c', 'd'):
        (tmp_path / 'train' / name).symlink_to('a')
    assert len(open_dataset('', str(tmp_path), 'train')) == 8


@pytest.mark.parametrize('mode', ['I;16', 'I', 'F'])
def test_images_of_more_than_eight_bits_are_not_cut_off(tmp_path, mode):
    make(tmp_path, 1)
    values = np.full((32, 32), 300, {'I;16': np.uint16, 'I': np.int32, 'F': np.float32}[mode])
    Image.fromarray(values).save(tmp_path / 'train/a/000.png', 'png' if mode == 'I;16' else 'tiff')
    with pytest.raises(UnreadableImage, match=r"a/000\.png': it has more than 8 bits per channel \(mode [IF]"):
        read_sample(open_dataset('', str(tmp_path), 'train', 1), 0)


@pytest.mark.parametrize(
    ('image', 'says'),
    [
        (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n', 'cannot identify image file'),
        (Image.new('L', (5000, 1)), 'it has 5000 x 1 pixels'),
    ],
    ids=['a program', 'a line'],
)
def test_images_that_cost_too_much_are_named(tmp_path, monkeypatch, image, says):
    """Ghostscript would run a PostScript file; a line is resized until its short side has the size of an image."""
    make(tmp_path, 1)
    path = tmp_path / 'train/a/000.png'
    path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
    monkeypatch.setattr(subprocess, 'check_call', lambda *_, **__: pytest.fail('a program was started'))
    with pytest.raises(UnreadableImage, match=rf'a/000\.png.*{says}'):
        read_sample(open_dataset('', str(tmp_path), 'train'), 0)


def test_an_empty_folder(tmp_path):
    make(tmp_path, 0)
    with pytest.raises(ValueError, match='Found 0 images'):
        open_dataset('', str(tmp_path), 'train')


def test_an_image_that_cannot_be_opened_is_named(tmp_path):
    make(tmp_path, 2)
    dataset = open_dataset('', str(tmp_path), 'train')
    (tmp_path / 'train/a/001.png').unlink()
    with pytest.raises(UnreadableImage, match='001'):
        read_sample(dataset, 1)


@pytest.mark.parametrize('name', ['torch/image_folder', 'torch/folder'])
def test_folders_by_torchvisions_name(tmp_path, name):
    make(tmp_path, 2)
    assert len(open_dataset(name, str(tmp_path), 'test')) == 4


def damage(path):
    path.write_bytes(path.read_bytes()[:50])


def test_a_damaged_image_is_no_other_one(tmp_path):
    make(tmp_path, 4)
    damage(tmp_path / 'train/a/003.png')
    dataset = open_dataset('', str(tmp_path), 'train')
    view = View(dataset, [2, 3, 4])
    assert [view[i][0].getpixel((0, 0))[0] for i in (0, 2)] == [2, 4]
    for read in (lambda: view[1], lambda: read_sample(dataset, 3)):
        with pytest.raises(UnreadableImage, match='003'):
            read()


@pytest.mark.parametrize('workers', [0, 2])
def test_training_ends_with_one_line_that_names_it(run_cli, tmp_path, workers):
    make(tmp_path, 90)
    damage(tmp_path / 'train/b/001.png')  # not among those inspected first
    code, _, err = run_cli(*TRAIN, '--val-split', '0', '--best-on', 'test', '--workers', str(workers))
    assert code == 1
    (line,) = [line for line in err.splitlines() if 'error' in line]
    assert line.startswith("dkszoo: error: cannot read image './train/b/001.png'")
    assert 'Traceback' not in err
    assert not multiprocessing.active_children()  # Python would wait for them at exit


def test_validate_ends_too(run_cli, tmp_path, environment):
    make(tmp_path, 20)
    assert run_cli(*TRAIN, '--workers', '0')[0] == 0
    damage(tmp_path / 'test/b/001.png')
    command = [sys.executable, '-m', 'dkszoo', 'validate', '--checkpoint', 'runs/r/last.pth.tar', '-b', '4', '-j', '2']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert 'test/b/001.png' in done.stderr
    assert 'Traceback' not in done.stderr


def test_images_a_model_does_not_take(run_cli, tmp_path):
    make(tmp_path, 8)
    fixed = ('--model-kwargs', 'img_size=64', 'dynamic_img_size=False')
    vit = ('--model', 'test_vit', '--img-size', '64', *fixed, '--method', 'baseline')
    assert run_cli(*TRAIN, *vit, '--workers', '0')[0] == 0
    code, _, err = run_cli('validate', '--checkpoint', 'runs/r/last.pth.tar', '--img-size', '96')
    assert code == 2
    assert 'does not take 96x96 images' in err


@pytest.mark.parametrize('name', ['', 'torch/cifar10'])
def test_images_read_in_gray_are_so_ever_after(run_cli, tmp_path, name):
    make(tmp_path, 8) if name == '' else write_cifar(tmp_path, 10)
    gray = ('--dataset', name, '--in-chans', '1', '--workers', '0', '--val-split', '0', '--best-on', 'test')
    assert run_cli(*TRAIN, *gray, '--export', 'gray.safetensors')[0] == 0
    trained = json.loads((tmp_path / 'runs/r/run.json').read_text())['result']['last']['top1']
    for file, more in (('runs/r/last.pth.tar', ()), ('gray.safetensors', ('--data-dir', '.'))):
        code, out, err = run_cli('validate', '--checkpoint', file, *more, '--device', 'cpu')
        assert code == 0, err
        assert json.loads(out.splitlines()[-1])['top1'] == trained


def test_a_folder_level_forgotten(run_cli, tmp_path):
    make(tmp_path, 12, classes=('.',))
    code, _, err = run_cli(*TRAIN)
    assert code == 2
    assert 'one class' in err


def test_one_class_may_be_asked_for(tmp_path):
    make(tmp_path, 12, classes=('.',))
    config, _ = open_data(TrainConfig(dataset='', data_dir=str(tmp_path), num_classes=1, img_size=32))
    assert config.num_classes == 1


def test_other_classes_are_named(run_cli, tmp_path):
    make(tmp_path, 6, ('ant', 'bee', 'cat', 'dog', 'eel'), ('train',))
    make(tmp_path, 6, ('bee', 'fox'), ('test',))
    err = run_cli(*TRAIN)[2]
    assert "only in training 'ant', 'cat', 'dog' ...; only here 'fox'" in err


def test_validate_looks_at_the_classes(run_cli, tmp_path):
    make(tmp_path, 12)
    make(tmp_path / 'other', 12, ('a', 'c'))
    assert run_cli(*TRAIN, '--workers', '0', '--validation-batch-size', '5')[0] == 0
    code, out, _ = run_cli('validate', '--checkpoint', 'runs/r/last.pth.tar')
    assert code == 0
    assert json.loads(out.splitlines()[-1])['batch_size'] == 5
    code, _, err = run_cli('validate', '--checkpoint', 'runs/r/last.pth.tar', '--data-dir', 'other')
    assert (code, "has other classes: only in training 'b'; only here 'c'" in err) == (2, True)


@pytest.mark.parametrize('dataset', ['', 'torch/image_folder'])
def test_a_class_without_images_for_a_model_whose_classes_have_no_names(run_cli, tmp_path, dataset):
    """Folders are counted: images of every class after it would be measured against the label before theirs."""
    torch.save(dkszoo.create_model('cifar_resnet8', num_classes=3).state_dict(), tmp_path / 'net.pth')
    assert run_cli('convert', 'net.pth', 'w.safetensors')[0] == 0
    make(tmp_path, 2, ('ant', 'bee', 'cat'))
    validate = ('validate', '--checkpoint', 'w.safetensors', '--dataset', dataset, '--data-dir', '.')
    code, _, err = run_cli(*validate)
    assert code == 0, err
    shutil.rmtree(tmp_path / 'test/bee')
    code, out, err = run_cli(*validate)
    assert (code, out) == (2, '')
    assert "'.' has 2 classes, the model 3, whose names are not known (every class needs" in err.splitlines()[-1]


def test_measuring_more_changes_no_training(run_cli, tmp_path):
    """Augmentation of folders draws from the global generators, which evaluation must not advance."""
    make(tmp_path, 24)
    found = []
    for name, more in (('one', ()), ('two', ('--eval-test-every-epoch',))):
        argv = (*TRAIN, '--drop', '0.5', '--workers', '0', '--epochs', '2', '--experiment', name, *more)
        assert run_cli(*argv)[0] == 0
        found.append(json.loads((tmp_path / 'runs' / name / 'run.json').read_text())['weights_sha256'])
    assert found[0] == found[1]


def test_a_folder_may_be_written_otherwise(run_cli, tmp_path):
    make(tmp_path, 12)
    assert run_cli(*TRAIN, '--workers', '0')[0] == 0
    for way in ('./', str(tmp_path)):
        code, out, _ = run_cli(*TRAIN, '--data-dir', way)
        assert code == 0
        assert 'finished already' in out
    make(tmp_path / 'other', 12)
    code, _, err = run_cli(*TRAIN, '--data-dir', 'other')
    assert code == 2
    assert 'holds a run with --data-dir' in err
    assert json.loads((tmp_path / 'runs/r/run.json').read_text())['settings']['data_dir'] == '.'


def test_a_run_does_not_go_on_with_fewer_images(run_cli, tmp_path):
    make(tmp_path, 12)
    assert run_cli(*TRAIN, '--workers', '0')[0] == 0
    path = tmp_path / 'runs/r/run.json'
    record = json.loads(path.read_text())
    del record['result']  # as if stopped before the test
    path.write_text(json.dumps(record))
    (tmp_path / 'train/a/003.png').rename(tmp_path / 'gone.png')
    code, _, err = run_cli(*TRAIN, '--workers', '0')
    assert code == 2
    assert 'was started with 22 train images, but there are 21 now' in err
    (tmp_path / 'gone.png').rename(tmp_path / 'train/a/003.png')
    assert run_cli(*TRAIN, '--workers', '0')[0] == 0


def test_a_damaged_test_image_may_be_removed_after_the_training(run_cli, tmp_path):
    make(tmp_path, 12, splits=('train',))
    make(tmp_path, 40, splits=('test',))
    path = tmp_path / 'test/a/004.png'  # not among the 64 that are read at the start
    path.write_bytes(path.read_bytes()[:60])
    code, _, err = run_cli(*TRAIN, '--workers', '0')
    assert code == 1
    assert err.splitlines()[-1].endswith('(repair or replace it; the same command resumes from what is saved)')
    path.unlink()
    code, _, err = run_cli(*TRAIN, '--workers', '0')
    assert code == 0, err
    assert 'the run was started with another data set (its fingerprint)' in err
    assert json.loads((tmp_path / 'runs/r/run.json').read_text())['test_images'] == 79
    shutil.rmtree(tmp_path / 'runs')
    chosen = ('--workers', '0', '--best-on', 'test', '--val-split', '0')
    assert run_cli(*TRAIN, *chosen)[0] == 0
    record = json.loads((tmp_path / 'runs/r/run.json').read_text())
    del record['result']
    (tmp_path / 'runs/r/run.json').write_text(json.dumps(record))
    (tmp_path / 'test/a/005.png').unlink()
    code, _, err = run_cli(*TRAIN, *chosen)
    assert code == 2
    assert 'was started with 79 test images, but there are 78 now' in err


def test_a_run_can_be_repeated_where_its_folder_has_moved(run_cli, tmp_path):
    make(tmp_path / 'data', 12)
    assert run_cli(*TRAIN, '--data-dir', 'data', '--workers', '0')[0] == 0
    (tmp_path / 'data').rename(tmp_path / 'moved')
    code, out, err = run_cli('replay', 'runs/r/run.json', '--data-dir', 'moved')
    assert code == 0, err
    assert out.splitlines()[-1].startswith('equal: ')
