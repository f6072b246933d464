import copy
import json
from os import replace

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

import dkszoo
from dkszoo.branches import cost
from dkszoo.deploy import VerificationFailed, convert_file, verify
from dkszoo.weights import sha256, write_card


def test_export_and_load(checkpoint, tmp_path):
    path, net = checkpoint
    card = dkszoo.export(path, tmp_path / 'o.safetensors')
    model, _ = dkszoo.load(tmp_path / 'o.safetensors')
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(model(images), net.eval()(images).logits)
    assert card['num_params'] == sum(p.numel() for p in model.parameters())
    assert model.pretrained_cfg['mean'] == (0.5,) * 3
    with safe_open(tmp_path / 'o.safetensors', 'pt') as file:
        assert file.metadata() == {'format': 'pt'}  # without which others refuse it
    assert json.loads((tmp_path / 'o.json').read_text()) == card
    assert card['source'] == {'file': 'c.pth.tar', 'sha256': sha256(path)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ['c.pth.tar', 'o.json', 'o.safetensors']


def test_branches_elsewhere_than_usual(checkpoint, tmp_path):
    path, net = checkpoint
    saved = torch.load(path, weights_only=True)
    saved['task_state']['branches'] = {f'0.{key}': value for key, value in net.branches[1].state_dict().items()}
    saved['dkszoo']['model']['taps'] = [1]
    torch.save(saved, path)
    dkszoo.export(path, tmp_path / 'o.safetensors')


def test_an_export_is_not_exported_again(checkpoint, run_cli):
    path, _ = checkpoint
    dkszoo.export(path, 'o.safetensors')
    for target in (['o.onnx'], ['--hub-dir', 'hub']):
        code, _, err = run_cli('export', 'o.safetensors', *target)
        assert code == 2
        assert "'o.safetensors' is an export already" in err.splitlines()[-1]
        assert 'dkszoo convert' in err.splitlines()[-1]
    assert 'no checkpoint file' in run_cli('export', 'p.safetensors', 'o.onnx')[2]


def test_nothing_else_is_overwritten(checkpoint, tmp_path):
    path, _ = checkpoint
    (tmp_path / 'run.json').write_text('{"result": {}}')
    (tmp_path / 'mine.safetensors').write_text('precious')
    (tmp_path / 'a.safetensors').mkdir()
    (tmp_path / 'b.json').mkdir()
    (tmp_path / 'c.json').write_bytes(b'\xff\xfe')
    before = sorted(tmp_path.iterdir())
    for name, says in (
        ('run', 'not from an export'),
        ('mine', 'not from an export'),
        ('c', 'not from an export'),
        ('a', 'is a folder'),
        ('b', 'is a folder'),
    ):
        with pytest.raises(ValueError, match=says):
            dkszoo.export(path, tmp_path / f'{name}.safetensors')
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / 'run.json').read_text() == '{"result": {}}'
    assert (tmp_path / 'mine.safetensors').read_text() == 'precious'
    with pytest.raises(TypeError, match='file of a training checkpoint, got Linear'):
        dkszoo.export(torch.nn.Linear(1, 1), tmp_path / 'o.safetensors')
    for _ in range(2):  # its own card may be replaced
        dkszoo.export(path, tmp_path / 'o.safetensors')


def test_damage_is_found(checkpoint, tmp_path):
    path, _ = checkpoint
    out = tmp_path / 'o.safetensors'
    dkszoo.export(path, out)
    content = bytearray(out.read_bytes())
    content[-1] ^= 1
    out.write_bytes(content)
    with pytest.raises(ValueError, match='SHA-256 does not match'):
        dkszoo.load(out)
    out.unlink()
    with pytest.raises(ValueError, match='no file'):
        dkszoo.load(out)


def test_failed_verification_writes_nothing(checkpoint, tmp_path, monkeypatch):
    path, _ = checkpoint
    # a network whose main head depends on a branch cannot be stripped
    from dkszoo.branches import DeeplySupervised

    forward = DeeplySupervised.forward

    def entangled(self, x):
        out = forward(self, x)
        return out._replace(logits=out.logits + 1e-6 * out.branch_logits[0])

    monkeypatch.setattr(DeeplySupervised, 'forward', entangled)
    with pytest.raises(VerificationFailed, match='logits of the stripped network differ'):
        dkszoo.export(path, tmp_path / 'o.safetensors')
    assert [p.name for p in tmp_path.iterdir()] == ['c.pth.tar']


def test_failed_verification_on_the_command_line(checkpoint, run_cli, monkeypatch):
    path, _ = checkpoint
    from dkszoo.branches import DeeplySupervised

    forward = DeeplySupervised.forward
    monkeypatch.setattr(
        DeeplySupervised, 'forward', lambda self, x: (out := forward(self, x))._replace(logits=out.logits + 1)
    )
    code, _, err = run_cli('export', path, 'o.safetensors')
    assert code == 1
    assert err.splitlines()[-1].startswith('dkszoo: error: logits of the stripped network differ')


def test_attention_is_counted():
    """As `dkszoo cost` counts it, on the meta device; torch does not know a CPU's own kernel."""
    tiny = dict(num_classes=10, img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    plain = timm.create_model('vit_tiny_patch16_224', **tiny).eval()
    found = verify(dkszoo.attach_branches(copy.deepcopy(plain), 'linear'), plain, (3, 32, 32))
    assert found['flops'] == cost(plain, None, img_size=32).backbone.flops


def test_verify_compares_parameters_and_flops_too():
    small = timm.create_model('cifar_resnet8', num_classes=3)
    net = dkszoo.attach_branches(small)
    other = timm.create_model('cifar_resnet8', num_classes=3)
    other.load_state_dict(small.state_dict())
    assert verify(net, other, (3, 32, 32))['num_params'] == sum(p.numel() for p in small.parameters())
    other.spare = torch.nn.Linear(2, 2)
    with pytest.raises(VerificationFailed, match='parameters'):
        verify(net, other, (3, 32, 32))
    del other.spare
    once = other.forward
    other.forward = lambda images: (once(images), once(images))[0]
    with pytest.raises(VerificationFailed, match='FLOPs differ'):
        verify(net, other, (3, 32, 32))


def test_a_kill_leaves_no_export_without_its_card(checkpoint, tmp_path, monkeypatch):
    """It could be anybody's file, and would not be written over."""
    path, _ = checkpoint
    out = tmp_path / 'o.safetensors'

    def die(_: str, target) -> None:
        if target == out:
            raise KeyboardInterrupt

    monkeypatch.setattr('os.replace', lambda source, target: (replace(source, target), die(source, target)))
    with pytest.raises(KeyboardInterrupt):
        dkszoo.export(path, out)
    monkeypatch.undo()
    assert out.exists()
    dkszoo.load(out)
    dkszoo.export(path, out)
    saved = torch.load(path, weights_only=True)
    saved['state_dict']['fc.bias'] += 1.0
    torch.save(saved, path)
    monkeypatch.setattr('os.replace', lambda source, target: (replace(source, target), die(source, target)))
    with pytest.raises(KeyboardInterrupt):  # once more, over an export of other weights
        dkszoo.export(path, out)
    monkeypatch.undo()
    assert torch.equal(dkszoo.load(out)[0].fc.bias, saved['state_dict']['fc.bias'])


def test_an_export_that_fails_leaves_the_old_one_whole(checkpoint, tmp_path, monkeypatch):
    path, net = checkpoint
    card = dkszoo.export(path, tmp_path / 'out.safetensors')
    saved = torch.load(path, weights_only=True)
    saved['state_dict']['fc.bias'] += 1.0
    torch.save(saved, path)

    def fail(source, target):
        if str(target).endswith('.safetensors'):
            raise OSError(28, 'No space left on device')
        replace(source, target)

    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(OSError, match='No space left'):
        dkszoo.export(path, tmp_path / 'out.safetensors')
    model, _ = dkszoo.load(tmp_path / 'out.safetensors')
    assert json.loads((tmp_path / 'out.json').read_text())['sha256'] == card['sha256']
    assert torch.equal(model.fc.bias, net.backbone.fc.bias)


def test_convert_of_a_file_from_ones_own_loop(run_cli, tmp_path, caplog):
    """It says neither size nor crop, and may have averaged weights beside those it was trained with."""
    nets = [timm.create_model('cifar_resnet8', num_classes=4) for _ in range(2)]
    states = dict(zip(('state_dict', 'state_dict_ema'), (net.state_dict() for net in nets), strict=True))
    torch.save({'arch': 'cifar_resnet8', 'version': 2, **states}, tmp_path / 'own.pth')
    for net, argv in zip(nets, (('--no-ema',), ()), strict=True):
        caplog.clear()
        code, _, err = run_cli('convert', 'own.pth', 'o.safetensors', *argv, '--img-size', '24', '--crop-pct', '0.9')
        assert code == 0, err
        card = json.loads((tmp_path / 'o.json').read_text())
        assert card['ema'] == (not argv) == ('using its averaged weights (--no-ema: the raw weights)' in caplog.text)
        assert (card['data']['input_size'], card['data']['crop_pct']) == ([3, 24, 24], 0.9)
        assert 'size [3, 24, 24], crop 0.9 (see dkszoo convert --help)' in caplog.text
        loaded, transform = dkszoo.load('o.safetensors')
        assert torch.equal(loaded.fc.weight, net.fc.weight)
        assert transform(Image.new('RGB', (50, 40))).shape == (3, 24, 24)
    code, _, err = run_cli('convert', 'own.pth', 'o.safetensors', '--img-size', '0')
    assert (code, '--img-size' in err.splitlines()[-1]) == (2, True)
    with pytest.raises(ValueError, match=r'^crop_pct cannot be 50'):
        convert_file('own.pth', 'o.safetensors', crop_pct=50.0)
    torch.save({'arch': 'cifar_resnet8', 'version': 2, 'state_dict': states['state_dict'], 7: 8}, tmp_path / 'one.pth')
    assert run_cli('convert', 'one.pth', 'o.safetensors', '--no-ema')[0] == 0
    assert '--no-ema has no effect, it has only one set of weights' in caplog.text
    advice = r'dkszoo export makes one from a training checkpoint, dkszoo convert from the files of others'
    with pytest.raises(ValueError, match=rf"^'own.pth' is not an export \({advice}\)$"):
        dkszoo.load('own.pth')


def test_convert_keeps_what_an_export_says(checkpoint, run_cli, tmp_path, caplog):
    path, _ = checkpoint
    card = {**dkszoo.export(path, 'o.safetensors'), 'ema': True}
    write_card(tmp_path / 'o.safetensors', card)
    assert run_cli('convert', 'o.safetensors', 'p.safetensors')[0] == 0
    assert 'does not say how images are prepared' not in caplog.text
    again = json.loads((tmp_path / 'p.json').read_text())
    for key in ('arch', 'design', 'method', 'tag', 'class_names', 'dataset', 'data', 'ema'):
        assert again[key] == card[key], key
    assert card['tag'] == 'dks_digits'
    write_card(tmp_path / 'o.safetensors', {**card, 'tag': 'sun2019_in1k', 'method': None})
    assert run_cli('convert', 'o.safetensors', 'p.safetensors')[0] == 0
    assert json.loads((tmp_path / 'p.json').read_text())['tag'] == 'sun2019_in1k'
    assert run_cli('convert', 'o.safetensors', 'p.safetensors', '--std', '0.1', '0.2', '0.3')[0] == 0
    data = json.loads((tmp_path / 'p.json').read_text())['data']
    assert data == {**card['data'], 'std': [0.1, 0.2, 0.3]}
