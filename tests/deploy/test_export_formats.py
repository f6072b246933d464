"""ONNX and torch.export files: verified, of any batch size, and refused in words where they cannot be."""

import contextlib
import dataclasses
import errno
import importlib.util
import json
import logging
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dkszoo
from dkszoo.deploy import VerificationFailed, check_target
from dkszoo.deploy import formats as formats_of_deploy
from dkszoo.deploy.export import compare
from dkszoo.deploy.formats import FORMATS, graph


def logits(net, batch_size):
    images = torch.randn(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(batch_size))
    with torch.inference_mode():
        return images, net.eval().backbone(images)


def test_onnx(checkpoint, tmp_path, run_cli, caplog):
    import onnxruntime

    path, net = checkpoint
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.ERROR, 'onnx_ir')
    code, out, err = run_cli('export', path, 'o.onnx')
    assert code == 0, err
    assert not [record for record in caplog.records if record.name.startswith('onnx')]
    card = json.loads((tmp_path / 'o.onnx.json').read_text())
    assert out.splitlines() == [
        f'o.onnx: cifar_resnet8, {card["num_params"]:,} parameters, {card["flops"]:,} FLOPs per image',
        f'verified: {card["verified"]}',
        f'sha256 {card["sha256"]}',
    ]
    assert 'logits of 8 images bit-identical' in card['verified']
    assert logging.getLogger('onnx_ir').level == logging.ERROR  # as it was
    session = onnxruntime.InferenceSession(tmp_path / 'o.onnx')
    for batch_size in (1, 5):
        images, expected = logits(net, batch_size)
        (given,) = session.run(None, {'images': images.numpy()})
        assert np.abs(given - expected.numpy()).max() < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ['c.pth.tar', 'o.onnx', 'o.onnx.json']
    assert b'_cifar_net.py' not in (tmp_path / 'o.onnx').read_bytes()  # stack traces, with paths of this machine


def test_pt2_beside_safetensors(checkpoint, tmp_path):
    path, net = checkpoint
    cards = [dkszoo.export(path, tmp_path / f'o{suffix}') for suffix in ('.safetensors', '.pt2')]
    assert cards[0]['num_params'] == cards[1]['num_params']
    program = torch.export.load(tmp_path / 'o.pt2').module()
    model, _ = dkszoo.load(tmp_path / 'o.safetensors')
    for batch_size in (1, 5):
        images, expected = logits(net, batch_size)
        with torch.inference_mode():
            assert torch.equal(program(images), expected)
            assert torch.equal(model(images), expected)
    with pytest.raises(ValueError, match=r'finished graph \(run it with'):
        dkszoo.load(tmp_path / 'o.pt2')
    for read in (dkszoo.convert, lambda path: dkszoo.export(path, tmp_path / 'again.safetensors')):
        with pytest.raises(ValueError, match=r'finished graph \(run it with'):
            read(tmp_path / 'o.pt2')
    assert cards[1]['sha256'] == dkszoo.weights.sha256(tmp_path / 'o.pt2')
    with zipfile.ZipFile(tmp_path / 'o.pt2') as file:
        assert not any(b'_cifar_net.py' in file.read(name) for name in file.namelist())  # stack traces


@pytest.mark.parametrize(
    ('error', 'tolerance', 'passes'),
    [(5e-5, 1e-4, True), (2e-4, 1e-4, False), (float('nan'), 1e-4, False), (1e-6, 0.0, False)],
)
def test_file_that_differs_is_not_kept(checkpoint, tmp_path, monkeypatch, error, tolerance, passes):
    path, _ = checkpoint
    form = FORMATS['.safetensors']

    def read(temporary, model):
        net = form.read(temporary, model)
        return lambda images: net(images) + error

    monkeypatch.setitem(FORMATS, '.safetensors', dataclasses.replace(form, read=read, tolerance=tolerance))
    if passes:
        assert 'within 5' in dkszoo.export(path, tmp_path / 'o.safetensors')['verified']
        return
    with pytest.raises(VerificationFailed, match='logits of the file differ'):
        dkszoo.export(path, tmp_path / 'o.safetensors')
    assert [p.name for p in tmp_path.iterdir()] == ['c.pth.tar']


@pytest.mark.parametrize(('error', 'passes'), [(2**-11, True), (2**-9, False)])
def test_large_logits_may_differ_by_more(error, passes):
    """By a millionth, in a batch of any size."""
    plain = lambda images: torch.full((len(images), 2), 1000.0)  # noqa: E731
    form = dataclasses.replace(FORMATS['.onnx'], read=lambda *_: lambda x: plain(x) + error * (len(x) == 8))
    with contextlib.nullcontext() if passes else pytest.raises(VerificationFailed, match='the largest is 1e'):
        assert compare(form, None, plain, {'data': {'input_size': [3, 2, 2]}}).endswith(' within 0.00049')


@pytest.mark.parametrize('argv', [('export', 'nothing.pth.tar', 'o.onnx'), ('train', '--export', 'o.onnx')])
def test_missing_packages_are_named_before_any_work(run_cli, tmp_path, monkeypatch, argv):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        formats_of_deploy.importlib.util, 'find_spec', lambda name: None if 'onnxs' in name else found(name)
    )
    code, _, err = run_cli(*argv)
    assert code == 2
    expected = 'need onnxscript, not installed here (pip install onnx onnxscript onnxruntime)'
    assert err.splitlines()[-1] == f'dkszoo: error: .onnx files {expected}'
    assert not list(tmp_path.iterdir())


def test_tied_weights(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    FORMATS['.safetensors'].write(net, None, tmp_path / 'o')
    state = load_file(tmp_path / 'o')
    assert state.keys() == net.state_dict().keys()
    assert torch.equal(state['1.weight'], net[0].weight)


def test_weights_in_another_memory_layout(tmp_path):
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    FORMATS['.safetensors'].write(net, None, tmp_path / 'o')
    assert torch.equal(load_file(tmp_path / 'o')['weight'], net.weight)


def test_network_that_is_no_graph():
    class Moody(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r'torch cannot export Moody as a graph: .*choose \.safetensors'):
        graph(torch.export.export, Moody().eval(), torch.randn(2, 3))


def test_wrong_targets(run_cli, checkpoint, tmp_path):
    path, _ = checkpoint
    for argv, says in (
        ((path,), 'nothing to write'),
        ((path, 'o.pth'), 'must be named *.safetensors, *.onnx or *.pt2'),
        ((path, 'no/o.pt2'), 'cannot write into folder'),
        *(((path, 'o' * length + '.pt2'), 'File name too long (choose another name)') for length in (240, 300)),
        ((path, 'o.pt2', '--hub-dir', 'no/hub'), 'cannot make a folder in'),
    ):
        code, _, err = run_cli('export', *argv)
        assert code == 2
        assert says in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ['c.pth.tar']


def test_a_folder_nobody_may_write_is_found_before_any_work(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, 'Permission denied', str(dir))

    monkeypatch.setattr('tempfile.TemporaryFile', refuse)
    with pytest.raises(ValueError, match='cannot write into folder'):
        check_target(tmp_path / 'o.pt2')


def test_a_file_is_compared_at_several_sizes(checkpoint, tmp_path, monkeypatch):
    """One that were right for batches of eight alone is found out."""
    path, net = checkpoint
    plain = net.eval().backbone
    wrong = dataclasses.replace(FORMATS['.pt2'], read=lambda *_: lambda x: plain(x) + float(len(x) != 8))
    monkeypatch.setitem(FORMATS, '.pt2', wrong)
    with pytest.raises(VerificationFailed):
        dkszoo.export(path, tmp_path / 'o.pt2')
    assert not (tmp_path / 'o.pt2').exists()
