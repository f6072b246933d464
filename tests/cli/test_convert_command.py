"""`dkszoo convert`."""

import json
import shutil

import pytest
import timm
import torch
import torchvision

import dkszoo
from dkszoo.deploy import VerificationFailed, convert_file
from dkszoo.weights import sha256


@pytest.fixture
def dhm_file(tmp_path):
    """A checkpoint as DHM writes it, with branches; gives the network it was made from."""
    torch.manual_seed(0)
    net = dkszoo.create_model('cifar_resnet8', num_classes=12, shortcut='pad', branches='dks').eval()
    state = {f'module.{key}': value for key, value in net.backbone.state_dict().items()}
    for i, branch in enumerate(net.branches):
        head = f'head{2 - i}'
        for key, value in branch.state_dict().items():
            stage, _, rest = key.removeprefix('stages.').partition('.')
            name = f'layer{int(stage) + 2 + i}_{head}.{rest}' if key.startswith('stages.') else f'fc_{head}.{rest[3:]}'
            state[f'module.{name}'] = value
    contents = {'epoch': 3, 'arch': 'resnet8', 'state_dict': state, 'best_prec1': torch.tensor(7.0), 'optimizer': {}}
    torch.save(contents, tmp_path / 'model_best.pth.tar')
    return net


def test_convert_writes_an_export(run_cli, dhm_file):
    code, out, err = run_cli('convert', 'model_best.pth.tar', 'w.safetensors', '--mean', '0.4', '0.5', '0.6')
    assert code == 0, err
    assert 'w.safetensors: cifar_resnet8' in out
    with open('w.json') as file:
        card = json.load(file)
    assert card['arch'] == 'cifar_resnet8'
    assert card['model_args'] == {'num_classes': 12, 'in_chans': 3, 'shortcut': 'pad'}
    assert (card['design'], card['method']) == ('dks', None)
    assert card['data']['mean'] == [0.4, 0.5, 0.6]
    assert card['data']['std'] == [0.2675, 0.2565, 0.2761]
    assert card['source'] == {'file': 'model_best.pth.tar', 'sha256': sha256('model_best.pth.tar')}
    assert card['num_params'] == sum(p.numel() for p in dhm_file.backbone.parameters())
    model, transform = dkszoo.load('w.safetensors')
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), dhm_file.backbone(x))
    assert transform(torchvision.transforms.functional.to_pil_image(torch.rand(3, 40, 40))).shape == (3, 32, 32)
    code, out, err = run_cli('validate', '--checkpoint', 'w.safetensors', '--dataset', 'digits')
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])['images'] == 359
    code, _, err = run_cli('convert', 'w.safetensors', 'again.safetensors', '--model', 'cifar_resnet8')
    assert code == 0, err
    with open('again.json') as file:
        again = json.load(file)
    for key in ('data', 'design', 'model_args', 'sha256', 'num_params', 'flops'):
        assert again[key] == card[key]


def test_convert_with_the_names_of_the_classes(run_cli, tmp_path):
    torch.save(dkszoo.create_model('cifar_resnet8', num_classes=3).state_dict(), tmp_path / 'net.pth')
    (tmp_path / 'names.txt').write_text('a cat \nÄffle\ndog\n\n', encoding='utf-8')
    code, _, err = run_cli('convert', 'net.pth', 'w.safetensors', '--class-names', 'names.txt')
    assert code == 0, err
    model, _ = dkszoo.load('w.safetensors')
    assert model.pretrained_cfg['label_names'] == ['a cat', 'Äffle', 'dog']
    assert run_cli('convert', 'w.safetensors', 'again.safetensors')[0] == 0  # the names go on
    with open('again.json', encoding='utf-8') as file:
        assert json.load(file)['class_names'] == ['a cat', 'Äffle', 'dog']
    (tmp_path / 'two.txt').write_text('cat\ndog')
    (tmp_path / 'empty.txt').write_text('cat\n\ndog')
    (tmp_path / 'binary.txt').write_bytes(b'\xff\xfe')
    for name, words in (
        ('two.txt', '2 class names for 3 classes (give one for each, and no empty ones)'),
        ('empty.txt', '2 class names for 3 classes (give one for each, and no empty ones)'),
        ('binary.txt', "cannot read class names from 'binary.txt'"),
        ('none.txt', "cannot read class names from 'none.txt'"),
    ):
        code, _, err = run_cli('convert', 'net.pth', 'x.safetensors', '--class-names', name)
        assert (code, words in err.splitlines()[-1]) == (2, True), err


def test_convert_of_other_channels(run_cli, tmp_path, caplog):
    model = dkszoo.create_model('cifar_resnet8', num_classes=4, in_chans=1)
    torch.save(model.state_dict(), tmp_path / 'gray.pth')
    assert run_cli('convert', 'gray.pth', 'gray.safetensors')[0] == 0
    with open('gray.json') as file:
        data = json.load(file)['data']
    assert data['input_size'] == [1, 32, 32]
    assert data['mean'] == [pytest.approx((0.5071 + 0.4867 + 0.4408) / 3)]
    for flag in ('--mean', '--std'):
        code, _, err = run_cli('convert', 'gray.pth', 'gray.safetensors', flag, '0.1', '0.2')
        assert (code, 'takes 1 channels' in err) == (2, True)
    caplog.clear()
    own = ('--mean', '0.1', '--std', '0.2', '--img-size', '40', '--crop-pct', '0.9')
    assert run_cli('convert', 'gray.pth', 'gray.safetensors', *own)[0] == 0
    with open('gray.json') as file:
        assert json.load(file)['data']['input_size'] == [1, 40, 40]
    assert 'does not say how images are prepared' not in caplog.text  # the user has


def test_convert_of_a_file_that_says_how_images_are_prepared(run_cli, tmp_path, caplog):
    """As timm's train.py does, where it was told; --initial-checkpoint and --kd-checkpoint go by it, too."""
    model = timm.create_model('cifar_resnet8', num_classes=4, in_chans=1)
    args = {'mean': [0.2], 'std': [0.4], 'input_size': [1, 40, 40], 'crop_pct': 0.8, 'interpolation': 'bicubic'}
    state = {'arch': 'cifar_resnet8', 'state_dict': model.state_dict(), 'version': 2, 'args': args}
    torch.save(state, tmp_path / 'timms.pth')
    assert run_cli('convert', 'timms.pth', 'gray.safetensors')[0] == 0
    with open('gray.json') as file:
        assert args.items() <= json.load(file)['data'].items()
    assert 'does not say how images are prepared' not in caplog.text


def test_one_mean_for_all_channels(tmp_path):
    torch.save(dkszoo.create_model('cifar_resnet8', num_classes=4).state_dict(), tmp_path / 'net.pth')
    data = convert_file(tmp_path / 'net.pth', tmp_path / 'w.safetensors', mean=(0.5,), std=(0.1, 0.2, 0.3))['data']
    assert (data['mean'], data['std']) == ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3])


def test_a_deviation_of_nothing(tmp_path):
    torch.save(dkszoo.create_model('cifar_resnet8', num_classes=4).state_dict(), tmp_path / 'net.pth')
    with pytest.raises(ValueError, match=r'std cannot be \[0.5, 0, 0.5\]'):
        convert_file(tmp_path / 'net.pth', tmp_path / 'w.safetensors', std=(0.5, 0, 0.5))
    assert not (tmp_path / 'w.safetensors').exists()


def test_the_size_is_that_of_evaluation(run_cli, tmp_path):
    """Which is larger than that of training in many of timm's models."""
    torch.save(timm.create_model('test_mambaout', num_classes=4).state_dict(), tmp_path / 'net.pth')
    code, _, err = run_cli('convert', 'net.pth', 'w.safetensors', '--model', 'test_mambaout')
    assert code == 0, err
    with open('w.json') as file:
        assert json.load(file)['data']['input_size'] == [3, 192, 192]


def test_averaged_weights_unless_there_are_none(tmp_path):
    states = [dkszoo.create_model('cifar_resnet8', num_classes=4).state_dict() for _ in range(2)]
    for averaged in (states[1], {}):
        torch.save({'state_dict': states[0], 'state_dict_ema': averaged}, tmp_path / 'net.pth')
        card = convert_file(tmp_path / 'net.pth', tmp_path / 'w.safetensors')
        assert card['ema'] is bool(averaged)
        model, _ = dkszoo.load(tmp_path / 'w.safetensors')
        assert torch.equal(model.fc.weight, states[card['ema']]['fc.weight'])


def test_images_that_a_model_does_not_take(run_cli, tmp_path):
    """Of which models tell in words of their own, some by an AssertionError."""
    torch.save(timm.create_model('test_vit', num_classes=4).state_dict(), tmp_path / 'net.pth')
    code, _, err = run_cli('convert', 'net.pth', 'w.safetensors', '--model', 'test_vit', '--img-size', '33')
    assert (code, 'test_vit does not take images of (3, 33, 33)' in err.splitlines()[-1]) == (2, True)


def test_a_failed_verification(run_cli, monkeypatch):
    def fail(*args, **kwargs):
        raise VerificationFailed('logits differ')

    monkeypatch.setattr('dkszoo.deploy.convert_file', fail)
    code, _, err = run_cli('convert', 'net.pth', 'w.safetensors')
    assert (code, err.splitlines()[-1]) == (1, 'dkszoo: error: logits differ')


def test_convert_of_another_size(run_cli, tmp_path):
    model = dkszoo.create_model('cifar_wrn16_2', depth=10, widen_factor=1, num_classes=4)
    torch.save(model.state_dict(), tmp_path / 'wrn10.pth')
    code, _, err = run_cli('convert', 'wrn10.pth', 'w.safetensors')
    assert (code, 'another depth or width is a model argument' in err) == (2, True)
    size = ('--model-kwargs', 'depth=10', 'widen_factor=1')
    assert run_cli('convert', 'wrn10.pth', 'w.safetensors', '--model', 'cifar_wrn16_2', *size)[0] == 0
    with open('w.json') as file:
        assert json.load(file)['model_args'] == {'num_classes': 4, 'in_chans': 3, 'depth': 10, 'widen_factor': 1}


def test_an_export_stands_without_the_hub_folder_that_named_its_model(run_cli, tmp_path):
    net = timm.create_model('cifar_resnet8', num_classes=4, stem_chs=8)
    timm.models.save_for_hf(net, tmp_path / 'hub', safe_serialization=True)
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    assert run_cli('convert', 'net.pth', 'w.safetensors', '--model', 'local-dir:hub')[0] == 0
    shutil.rmtree(tmp_path / 'hub')
    assert torch.equal(dkszoo.load('w.safetensors')[0].fc.weight, net.fc.weight)


def test_mistakes(run_cli, tmp_path, dhm_file):
    for argv, says in (
        (('nothing.pth', 'w.safetensors'), 'no checkpoint file'),
        (('model_best.pth.tar', 'w.pth'), 'must be named *.safetensors'),
        (('model_best.pth.tar', 'no/w.safetensors'), 'cannot write into folder'),
        (('model_best.pth.tar', 'w.safetensors', '--model', 'cifar_resnet20'), 'does not fit cifar_resnet20: it lacks'),
        (('model_best.pth.tar', 'w.safetensors', '--model', 'cifar_resnet7'), 'did you mean'),
        (('model_best.pth.tar', 'w.safetensors', '--img-size', '0'), '--img-size must be at least 1'),
        (('model_best.pth.tar', 'w.safetensors', '--crop-pct', '0'), '--crop-pct must be at least 0.01'),
        (('model_best.pth.tar', 'w.safetensors', '--std', '0'), '--std must be above 0'),
        (('model_best.pth.tar', 'w.safetensors', '--model-kwargs', 'checkpoint_path=x.pth'), 'would read other files'),
    ):
        code, _, err = run_cli('convert', *argv)
        assert code == 2
        assert err.splitlines()[-1].startswith('dkszoo: error: ')
        assert says in err.splitlines()[-1]
    assert not list(tmp_path.glob('*w*.safetensors*'))
    argv = ['train', '--dataset', 'digits', '--model', 'cifar_resnet8', '--num-classes', '12', '--in-chans', '3']
    code, _, err = run_cli(*argv, '--epochs', '1', '--initial-checkpoint', 'model_best.pth.tar')
    assert (code, 'add --model-kwargs shortcut=pad' in err.splitlines()[-1]) == (2, True)
