"""validate.py for benchmark numbers: columns, calibration, smaller batches, patterns."""

import csv
import errno
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dkszoo
from dkszoo import engine
from dkszoo.cli.subject import Subject
from dkszoo.cli.validate import Measured, read_header, write_results
from dkszoo.engine import CalibrationError

TIMM_COLUMNS = [
    *('model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation'),
]
OUR_COLUMNS = ['loss', 'ece', 'images', 'batch_size', 'images_per_second', 'split', 'checkpoint']


@pytest.fixture
def digits_export(run_cli):
    """An export of an untrained network for the digits."""
    torch.manual_seed(0)
    net = dkszoo.create_model('cifar_resnet8', num_classes=10, in_chans=1)
    torch.save(net.state_dict(), 'net.pth')
    code, _, err = run_cli('convert', 'net.pth', 'net.safetensors', '--mean', '0.3', '--std', '0.3')
    assert code == 0, err
    return ('validate', '--checkpoint', 'net.safetensors', '--dataset', 'digits', '--device', 'cpu')


def figures(out: str) -> dict:
    return json.loads(out.splitlines()[-1])


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Guo et al., 2017, eq. 3, bin by bin, in percent."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return 100 * total


def test_calibration_error_is_the_papers():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1000, 7, generator=generator)
    targets = torch.randint(7, (1000,), generator=generator)
    error = CalibrationError()
    for batch in range(0, 1000, 300):
        error.update(logits[batch : batch + 300], targets[batch : batch + 300])
    probabilities = logits.softmax(1).numpy().astype(np.float64)
    correct = probabilities.argmax(1) == targets.numpy()
    assert error.compute() == pytest.approx(ece(probabilities.max(1), correct), rel=1e-9)


def test_calibration_error_in_mixed_precision():
    logits, labels, errors = torch.randn(200, 10).half(), torch.arange(200) % 10, []
    for dtype in (torch.float16, torch.float32):
        error = CalibrationError()
        error.update(logits.to(dtype), labels)
        errors.append(error.compute())
    assert errors[0] == errors[1]


def test_calibration_error_by_hand():
    # four images, all with confidence 0.8 in class 0; three of them are of class 0: |3/4 - 0.8|
    error = CalibrationError()
    error.update(torch.tensor([[0.8, 0.2]]).log().expand(4, 2), torch.tensor([0, 0, 0, 1]))
    assert error.compute() == pytest.approx(5.0, abs=1e-4)
    certain = CalibrationError()
    certain.update(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]), torch.tensor([0, 1]))
    assert certain.compute() == 0


def test_what_the_file_says_otherwise(run_cli, digits_export):
    for argv, says in (
        (
            ('--model', 'cifar_resnet14'),
            "'net.safetensors' holds a cifar_resnet8, not a cifar_resnet14 (leave --model out)",
        ),
        (('--num-classes', '4'), 'holds a model of 10 classes (leave --num-classes out)'),
        (('--in-chans', '3'), 'holds a model of 1 channels (leave --in-chans out)'),
        (('--pretrained',), 'two sources of weights (give one)'),
    ):
        code, _, err = run_cli(*digits_export, *argv)
        assert (code, says in err.splitlines()[-1]) == (2, True), err
    code, _, err = run_cli(*digits_export, '--model', 'cifar_resnet8', '--num-classes', '10', '--in-chans', '1')
    assert code == 0, err


def test_several_checkpoints(run_cli, digits_export):
    """One after the other; what cannot be read is said and left out."""
    argv = ('--checkpoint', 'net.safetensors', 'none.safetensors', 'net.safetensors', '--results-file', 'r.csv')
    code, out, err = run_cli('validate', *argv, *digits_export[3:])
    assert (code, out.count('"checkpoint": "net.safetensors"')) == (2, 2)
    assert out.count('cifar_resnet8, net.safetensors on 359 images') == 2
    assert 'none.safetensors was not measured' in err
    assert '1 of 3 models were not measured: none.safetensors' in err.splitlines()[-1]
    assert len(open('r.csv').readlines()) == 3


def test_results_file_has_timms_columns_first(run_cli, digits_export, tmp_path):
    open('r.csv', 'w').close()  # an empty one is as good as none
    for _ in range(2):
        code, out, err = run_cli(*digits_export, '--results-file', 'r.csv')
        assert code == 0, err
    with open('r.csv', newline='') as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == TIMM_COLUMNS + OUR_COLUMNS
    result = figures(out)
    assert list(result) == TIMM_COLUMNS + OUR_COLUMNS
    assert len(rows) == 2
    assert {key: rows[1][key] for key in rows[1]} == {key: str(value) for key, value in result.items()}
    assert result['param_count'] == 0.08
    assert (result['img_size'], result['crop_pct'], result['interpolation']) == (32, 1.0, 'bilinear')
    assert result['top1_err'] == pytest.approx(100 - result['top1'], abs=1e-9)
    assert 0 < result['ece'] < 100
    assert result['images_per_second'] > 0
    assert (result['split'], result['checkpoint']) == ('test', 'net.safetensors')

    with open('other.csv', 'w') as file:
        file.write('model,top1\n')
    code, _, err = run_cli(*digits_export, '--results-file', 'other.csv')
    assert code == 2
    assert 'has other columns' in err.splitlines()[-1]
    with open('other.csv') as file:
        assert file.read() == 'model,top1\n'
    for content in (b'\xff', b'"' + b'x' * 200_000):
        (tmp_path / 'other.csv').write_bytes(content)
        code, _, err = run_cli(*digits_export, '--results-file', 'other.csv')
        assert (code, "cannot read 'other.csv' as CSV" in err.splitlines()[-1]) == (2, True)
    code, out, err = run_cli(*digits_export, '--results-file', 'no/where.csv')
    assert code == 2
    assert 'cannot write results file' in err.splitlines()[-1]
    assert not out


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    write_results(tmp_path / 'r.csv', {'checkpoint': 'x\udce9'})
    assert (tmp_path / 'r.csv').read_text().splitlines() == ['checkpoint', r'x\udce9']


def test_no_part_of_a_row_is_written(run_cli, digits_export, tmp_path, monkeypatch):
    def half(writer, _):
        writer.writer.writerow(['half'])
        raise OSError(errno.ENOSPC, 'Full')

    monkeypatch.setattr(csv.DictWriter, 'writerow', half)
    for held in ('', ','.join(TIMM_COLUMNS + OUR_COLUMNS) + '\n'):
        (tmp_path / 'r.csv').write_text(held)
        code, out, err = run_cli(*digits_export, '--results-file', 'r.csv')
        assert code == 1
        assert "cannot write results file 'r.csv': [Errno 28] Full (free some space)" in err.splitlines()[-1]
        assert figures(out)['images'] == 359
        assert (tmp_path / 'r.csv').read_text() == held


def test_a_results_file_is_no_pipe(tmp_path):
    """Reading its header would wait for a writer."""
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(ValueError, match='cannot write results file'):
        read_header(tmp_path / 'pipe')


def test_why_a_results_file_cannot_be_made(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'Full')

    with monkeypatch.context() as patched:
        patched.setattr('builtins.open', full)
        with pytest.raises(OSError, match='Full'):
            write_results(tmp_path / 'r.csv', {'model': 'net'})


def test_a_results_file_is_for_one_number_of_branches(run_cli, monkeypatch):
    """Also where the first model of the command has just made it."""
    data = {'input_size': (1, 32, 32), 'mean': (0.3,), 'std': (0.3,), 'interpolation': 'bilinear', 'crop_pct': 1.0}

    def read_subject(args) -> Subject:
        taps = [0, 1][: int(args.checkpoint)]
        net = dkszoo.create_model('cifar_resnet8', num_classes=10, in_chans=1, branches='linear', taps=taps)
        return Subject(net, f'net{len(taps)}', data)

    monkeypatch.setattr('dkszoo.cli.validate.read_subject', read_subject)
    given = ('--per-branch', '--dataset', 'digits', '--device', 'cpu', '--results-file', 'r.csv')
    code, _, err = run_cli('validate', '--checkpoint', '2', '1', *given)
    assert (code, 'has other columns' in err) == (2, True)
    with open('r.csv', newline='') as file:
        assert [row['model'] for row in csv.DictReader(file)] == ['net2']


def test_split_size_and_crop_are_those_asked_for(run_cli, digits_export):
    asked = {'plain': (), 'train': ('--split', 'train'), 'crop': ('--crop-pct', '0.5'), 'size': ('--img-size', '48')}
    found = {name: figures(run_cli(*digits_export, *more)[1]) for name, more in asked.items()}
    assert (found['plain']['images'], found['train']['images']) == (359, 1438)
    assert (found['crop']['crop_pct'], found['size']['img_size']) == (0.5, 48)
    assert len({result['loss'] for result in found.values()}) == 4


def test_batches_processes_and_device_are_those_asked_for(run_cli, digits_export, monkeypatch):
    seen = []

    def note(subject, view, how, batch_size, workers, device):
        seen.append((batch_size, workers, device.type))
        raise ValueError('noted')

    monkeypatch.setattr('dkszoo.cli.validate.measure', note)
    run_cli(*digits_export, '-b', '7', '-j', '3')
    data = {'input_size': (1, 32, 32), 'mean': (0.3,), 'std': (0.3,), 'interpolation': 'bilinear', 'crop_pct': 1.0}
    trained = Subject(SimpleNamespace(num_classes=10), 'net', data, evaluation={'batch_size': 9})
    monkeypatch.setattr('dkszoo.cli.validate.read_subject', lambda _: trained)
    run_cli(*digits_export)
    assert seen == [(7, 3, 'cpu'), (9, 2, 'cpu')]


def test_figures_that_are_not_finite_are_null(run_cli, digits_export, monkeypatch):
    found = Measured({'loss': float('nan'), 'top1': 10.0, 'top5': 50.0}, float('inf'), 8, 1.0)
    monkeypatch.setattr('dkszoo.cli.validate.measure', lambda *_: found)
    code, out, err = run_cli(*digits_export)
    assert code == 0, err
    assert [figures(out)[key] for key in ('loss', 'ece', 'top1')] == [None, None, 10.0]


def test_data_with_more_classes_than_the_model(run_cli, tmp_path):
    net = dkszoo.create_model('cifar_resnet8', num_classes=4, in_chans=1)
    torch.save(net.state_dict(), tmp_path / 'four.pth')
    assert run_cli('convert', 'four.pth', 'four.safetensors')[0] == 0
    code, _, err = run_cli('validate', '--checkpoint', 'four.safetensors', '--dataset', 'digits', '--device', 'cpu')
    assert code == 2
    assert 'has 10 classes, the model 4' in err.splitlines()[-1]


def test_smaller_batches_when_memory_is_short(run_cli, digits_export, monkeypatch):
    _, out, _ = run_cli(*digits_export, '--batch-size', '64')
    expected = figures(out)
    evaluate = engine.evaluate
    fits = 100

    def short_of_memory(net, loader, *args, **kwargs):
        if loader.batch_size > fits:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')
        return evaluate(net, loader, *args, **kwargs)

    monkeypatch.setattr(engine, 'evaluate', short_of_memory)
    code, out, err = run_cli(*digits_export)
    assert code == 0, err
    assert [line.split(', ')[-1] for line in err.splitlines()] == ['trying half as many'] * 2
    timing = 'images_per_second'
    assert {**figures(out), timing: 0} == {**expected, timing: 0}
    fits = 0
    code, _, err = run_cli(*digits_export)
    assert code == 2
    assert 'a single image is too much' in err.splitlines()[-1]

    def broken(*args, **kwargs):
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    monkeypatch.setattr(engine, 'evaluate', broken)
    with pytest.raises(RuntimeError, match='mat1'):  # other errors are no reason to try again
        run_cli(*digits_export)


def test_patterns(run_cli, monkeypatch, tmp_path):
    code, _, err = run_cli('validate', '--model', 'nonsense*', '--pretrained')
    assert code == 2
    assert "no pretrained model fits 'nonsense*'" in err.splitlines()[-1]
    monkeypatch.setenv('DKSZOO_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    code, out, err = run_cli('validate', '--model', 'dks_resnet*', '--pretrained', '--dataset', 'digits')
    names = [f'dks_resnet{depth}.sun2019_in1k' for depth in (18, 50, 152)]
    assert (code, out) == (2, '')
    *reasons, last = err.splitlines()
    assert [line.partition(' was not measured: no file ')[0] for line in reasons] == names
    assert last == f'dkszoo: error: 3 of 3 models were not measured: {", ".join(names)} (see above why)'
