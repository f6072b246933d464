"""A user's mistake ends with exit code 2 and one line that says what to do, before any training."""

import errno
import shutil

import pytest
import torch

from dkszoo.engine.folder import RunFolder
from dkszoo.engine.trainer import Trainer

TRAIN = ('train', '--config', 'quickstart', '--device', 'cpu')


def refused(run_cli, tmp_path, *argv: str) -> str:
    """Run, check the form of the refusal, and give its last line."""
    code, _, err = run_cli(*argv)
    assert code == 2, err
    assert 'Traceback' not in err
    last = err.splitlines()[-1]
    assert last.startswith('dkszoo: error: ')
    assert not list(tmp_path.rglob('*.pth.tar'))
    return last


@pytest.mark.parametrize(
    ('argv', 'says'),
    [
        (('--model', 'cifar_resnt20'), 'did you mean cifar_resnet20'),
        (('--model', 'resnet18.dks_in1k'), "has no tag 'dks_in1k'"),
        (('--opt', 'adahessian'), 'second derivatives'),
        (('--synergy-eps', '2'), '--synergy-eps must be 0 or from 1e-30 to below 1'),
        (('--synergy-eps', '1e-40'), '--synergy-eps'),
        (('--pretrained', '--initial-checkpoint', 'x.pth'), 'choose one'),
        (('--validation-batch-size', '200000'), '--validation-batch-size must be at least 1 and at most 100000'),
        (('--num-classes', '200000'), '--num-classes must be'),
        (('--img-size', '4096'), '--img-size must be'),
        (('--method', 'dsk'), "unknown method 'dsk'"),
        (('--branches', 'dkss'), "unknown design 'dkss'"),
        (('--dataset', 'torch/cifar11'), "did you mean 'torch/cifar10'?"),
        (('--dataset', 'digts'), "did you mean 'digits'?"),
        (('--dataset', 'foo', '--data-dir', '.'), "choose digits, torch/cifar100, ..., or '' for the image folder"),
        (('--dataset', 'hfdss/a/b', '--data-dir', '.'), 'did you mean hfds/...?'),
        (('--dataset', 'torch/cifar10', '--data-dir', '.'), '--data-dir'),
        (('--dataset', 'torch/cifar10'), 'give --data-dir'),
        (('--dataset', '', '--data-dir', 'nowhere'), 'no data folder'),
        (('--dataset', '', '--data-dir', '.'), 'no folder train'),
        (('--data-dir', '.'), "'digits' takes no folder, got '.' (give --dataset"),
        (('--taps', '7'), 'no tap 7'),
        (('--taps', 'layer9'), "no tap 'layer9'"),
        (('--taps=--1',), "no tap '--1'"),
        (('--taps', 'layer3'), 'is the last stage'),
        (('--taps', '0,0'), 'twice'),
        (('--num-classes', '3'), 'too few for the 10 classes'),
        (('--lr', 'fast'), 'is not a number'),
        (('--epochs', '0'), '--epochs must be at least 1'),
        (('--batch-size', '0'), '--batch-size must be at least 1'),
        (('--val-split', '1.5'), '--val-split'),
        (('--val-split', '0'), '--best-on test'),
        (('--best-on', 'tset'), 'choose val or test'),
        (('--opt', 'sdg'), 'did you mean sgd?'),
        (('--sched', 'cosin'), 'choose cosine, step'),
        (('--sched', 'wsd'), 'requires 0 < decay_epochs'),
        (('--sched', 'step', '--decay-epochs', '0'), '--decay-epochs must be above 0'),
        (('--decay-milestones', '0', '3'), '--decay-milestones must be at least 1'),
        (('--decay-milestones', '3', 'x'), "'3,x' is not a list"),
        (('--std', '0'), '--std must be above 0'),
        (('--smoothing', '1'), '--smoothing must be at least 0 and below 1'),
        (('--clip-grad', 'nan'), '--clip-grad must be above 0 and finite'),
        (('--lr', '1' + 400 * '0'), '--lr must be at least 0 and finite'),
        (('--epochs', '1' + 400 * '0'), 'got a number of 401 digits'),
        (('--seed', '-1'), '--seed must be at least 0'),
        (('--noise-seed', '-1'), '--noise-seed must be at least 0'),
        (('--seed', '4294967296'), '--seed must be at least 0 and at most 4294967295'),
        (('--seed', '-1' + 50 * '0'), 'got a number of 51 digits'),
        (('--layer-decay', '0'), '--layer-decay must be above 0'),
        (('--crop-pct', '0.009'), '--crop-pct must be at least 0.01'),
        (('--momentum', '1'), '--momentum must be at least 0 and below 1'),
        (('--mixup', '-1'), '--mixup must be at least 0'),
        (('--mixup', '0.2', '--batch-size', '1'), 'give --batch-size 2 or more'),
        (('--cutmix', '1', '--batch-size', '1'), 'give --batch-size 2 or more'),
        (('--scale', '0.3'), '--scale must be two numbers, the smaller one first, got [0.3]'),
        (('--ratio', '1.3', '0.7'), '--ratio must be two numbers, the smaller one first, got [1.3, 0.7]'),
        (('--scale', '0', '1'), '--scale must be above 0 and at most 1'),
        (('--bce-target-thresh', '0.2'), '--bce-target-thresh without --bce-loss (add it)'),
        (('--model', 'dla34', '--method', 'baseline', '--grad-checkpointing'), 'DLA has no gradient checkpointing'),
        (('--model-kwargs', 'layers=[1,1]'), 'expected 3 or 4 stages, got layers (1, 1)'),
        (('--amp-dtype', 'float64'), 'choose float16 or bfloat16'),
        (('--aa', 'nosuch'), "--aa 'nosuch' is not a timm policy"),
        (('--torchcompile', 'eagr'), "--torchcompile 'eagr' is unknown"),
        (('--torchcompile-mode', 'default'), '--torchcompile-mode without --torchcompile'),
        (
            ('--torchcompile', '--torchcompile-mode', 'reduce-overhead', '--grad-accum-steps', '2'),
            'reduce-overhead cannot accumulate',
        ),
        (('--dataset', '../../etc'), "data set '../../etc' is unknown"),
        (('--dataset', 'fashion_mnist'), "did you mean 'torch/fashion_mnist'?"),
        (('--device', 'gpu'), "device 'gpu'"),
        (('--device', 'meta'), 'device meta holds no numbers'),
        (('--model-kwargs', 'depthh=3'), "model 'cifar_resnet8'"),
        (('--model-kwargs', 'depth'), 'KEY=VALUE'),
        (('--model-kwargs', 'global_pool=foo'), "model 'cifar_resnet8': Invalid pool type"),
        (('--model-kwargs', 'in_chans=3'), 'a flag of its own'),
        (('--model-ema-warmup',), '--model-ema-warmup without --model-ema (add it)'),
        (('--model', 'vit_tiny_patch16_224', '--img-size', '32'), 'train with --model-kwargs img_size=32'),
        (('--initial-checkpoint', 'nothing.pth'), 'no checkpoint file'),
        (('--resume', 'nothing.pth'), 'no checkpoint file'),
        (('--resume', 'auto'), '--resume auto is what the same command does by itself (leave it out)'),
        (('--export', 'out.pth'), 'must be named *.safetensors'),
        (('--export', 'no/where/out.safetensors'), 'cannot write into folder'),
        (('--alpha', '1,2,3'), 'alpha has 3 weights for 2 branches'),
        (('--beta', '0,1;1,0'), '3 x 3 matrix'),
        (('--beta', '0,1'), "'0,1' is not a number or rows of numbers"),
        (('--epochz', '3'), 'did you mean --epochs?'),
        (('--in-chans', '2'), '--in-chans must be 1 or 3'),
        (('--mean', '0.5,0.5'), '2 values for 1 channels'),
    ],
)
def test_training_mistakes(run_cli, tmp_path, argv, says):
    assert says in refused(run_cli, tmp_path, *TRAIN, *argv)
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
    ('argv', 'says'),
    [
        (('images',), "unknown arguments: images (a folder of images is --dataset '' --data-dir images; see"),
        (('--batchsize', '3'), '(did you mean --batch-size? see'),
        (('--batchsize=1000000',), '(did you mean --batch-size? see'),
        (
            ('--checkpoint-hist', '3'),
            "unknown arguments: --checkpoint-hist 3 (timm's --checkpoint-hist is not supported; see",
        ),
        (
            ('--lr-noise', '0.42', '0.9', '--opt-eps=1e-3', '--recount', '1'),
            "(timm's --opt-eps is --opt-kwargs eps=X; timm's --lr-noise, --recount are not supported; see",
        ),
        (('--model', 'resnet8x4'), "unknown model 'resnet8x4' (did you mean cifar_resnet8x4?)"),
        (('--model', 'runs/12:30.pth'), "unknown model 'runs/12:30.pth' (dkszoo models lists ours)"),
        (('--model', 'w.pth'), "unknown model 'w.pth' (a file of weights is --initial-checkpoint FILE"),
        (('--resume', 'w.pth'), "'w.pth' is no training checkpoint of dkszoo (--initial-checkpoint takes weights)"),
    ],
)
def test_what_users_of_other_tools_type(run_cli, tmp_path, argv, says):
    (tmp_path / 'images').mkdir()
    torch.save({'state_dict': {}}, tmp_path / 'w.pth')
    assert says in refused(run_cli, tmp_path, 'train', *argv)


def test_recipes(run_cli, tmp_path):
    says = refused(run_cli, tmp_path, 'train', '--config', 'quikstart')
    assert '(did you mean quickstart? recipes: ' in says
    assert 'dskd_mobile, quickstart; or a YAML' in says
    for command in ('train', 'compare', 'bench'):  # of a shell's variable that is not set
        assert "unknown recipe '' (recipes: " in refused(run_cli, tmp_path, command, '--config', '')
    (tmp_path / 'r.yaml').write_text('learning_rate: 3\n')
    says = refused(run_cli, tmp_path, 'train', '--config', 'r.yaml')
    assert "recipe 'r.yaml': unknown setting 'learning_rate'" in says
    (tmp_path / 'r.yaml').write_text('metod: dks\n')
    assert "did you mean 'method'" in refused(run_cli, tmp_path, 'train', '--config', 'r.yaml')
    (tmp_path / 'r.yaml').write_text('epochs: many\n')
    assert 'epochs must be int' in refused(run_cli, tmp_path, 'train', '--config', 'r.yaml')
    (tmp_path / 'r.yaml').write_text('lr: 1' + 400 * '0')
    assert 'lr must be float, got a number of 401 digits' in refused(run_cli, tmp_path, 'train', '--config', 'r.yaml')
    (tmp_path / 'r.yaml').write_text('- 1\n')
    assert 'not a mapping' in refused(run_cli, tmp_path, 'train', '--config', 'r.yaml')
    (tmp_path / 'r.yaml').write_text('a: !!python/object/apply:os.system ["touch ran"]\n')
    assert 'cannot be read' in refused(run_cli, tmp_path, 'train', '--config', 'r.yaml')
    (tmp_path / 'r.yaml').write_text('lr: 1\nmean: [1\nstd: 3\n')
    assert "expected ',' or ']', but got ':', line 3" in refused(run_cli, tmp_path, 'train', '--config', 'r.yaml')
    assert not (tmp_path / 'ran').exists()


def test_commands(run_cli, tmp_path):
    assert 'did you mean train' in refused(run_cli, tmp_path, 'trian')
    assert 'commands: train,' in refused(run_cli, tmp_path, 'xyz')
    assert 'COMMAND' in refused(run_cli, tmp_path)
    assert 'nothing to measure' in refused(run_cli, tmp_path, 'validate')
    assert 'without weights' in refused(run_cli, tmp_path, 'validate', '--model', 'cifar_resnet8')
    assert 'has no pretrained weights' in refused(
        run_cli, tmp_path, 'validate', '--model', 'cifar_resnet14', '--pretrained', '--dataset', 'digits'
    )
    assert 'no checkpoint file' in refused(run_cli, tmp_path, 'export', 'a.pth.tar', 'b.safetensors')
    assert 'add --hub-dir DIR' in refused(run_cli, tmp_path, 'export', 'a.pth.tar', 'b.onnx', '--license', 'mit')
    assert 'no checkpoint file' in refused(run_cli, tmp_path, 'export', 'a.pth.tar', '--no-ema', 'b.safetensors')
    elsewhere = ('b.safetensors', '--hub-dir', 'no/where')
    assert 'cannot make a folder in' in refused(run_cli, tmp_path, 'export', 'a.pth.tar', *elsewhere)
    for flag in ('--batch-size', '--img-size', '--crop-pct', '--num-classes', '--in-chans'):
        assert f'{flag} must be' in refused(run_cli, tmp_path, 'validate', '--checkpoint', 'a.pth.tar', flag, '0')
    assert '--workers must be' in refused(run_cli, tmp_path, 'validate', '--checkpoint', 'a.pth.tar', '-j', '-1')
    for flag in ('--per-branch', '--no-ema'):
        exports = (('--checkpoint', 'a.onnx'), ('--checkpoint', 'a.pth.tar', 'b.safetensors'))
        for subject in (*exports, ('--model', 'cifar_resnet20', '--pretrained')):
            said = refused(run_cli, tmp_path, 'validate', *subject, flag)
            assert f'{flag} needs a training checkpoint' in said


def test_checkpoints(run_cli, tmp_path):
    torch.save({'weight': torch.ones(2)}, tmp_path / 'foreign.pth')
    for argv in (
        ('validate', '--checkpoint', 'foreign.pth'),
        ('export', 'foreign.pth', 'o.safetensors'),
    ):
        code, _, err = run_cli(*argv)
        assert code == 2
        assert 'is no training checkpoint of dkszoo' in err.splitlines()[-1]
    assert 'does not fit' in refused(run_cli, tmp_path, *TRAIN, '--initial-checkpoint', 'foreign.pth')
    (tmp_path / 'a.safetensors').write_bytes(b'nonsense')
    assert 'a.json' in refused(run_cli, tmp_path, 'validate', '--checkpoint', 'a.safetensors')
    assert not (tmp_path / 'o.safetensors').exists()


def test_unwritable_output(run_cli, tmp_path):
    (tmp_path / 'file').touch()
    assert 'cannot write run folder' in refused(run_cli, tmp_path, *TRAIN, '--output', 'file')
    assert 'cannot write run folder' in refused(run_cli, tmp_path, *TRAIN, '--output', '/proc/nowhere')


def test_a_disk_that_is_full_at_the_start(run_cli, tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, 'write_record', lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'Full')))
    code, _, err = run_cli(*TRAIN, '--output', 'runs', '--experiment', 'r')
    line = "dkszoo: error: cannot write run folder 'runs/r': [Errno 28] Full (free some space)"
    assert (code, err.splitlines()[-1]) == (2, line)
    assert not (tmp_path / 'runs/r/.lock').exists()


def test_a_disk_that_is_full_for_a_copy_of_the_checkpoint_to_resume(run_cli, tmp_path, monkeypatch):
    argv = (*TRAIN, '--train-num-samples', '100', '--output', 'runs')
    assert run_cli(*argv, '--epochs', '1', '--experiment', 'one')[0] == 0
    monkeypatch.setattr(shutil, 'copyfile', lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'Full')))
    code, _, err = run_cli(*argv, '--epochs', '2', '--experiment', 'r', '--resume', 'runs/one/last.pth.tar')
    line = "cannot write run folder 'runs/r': cannot write 'runs/r/last.pth.tar': Full (free some space)"
    assert (code, err.splitlines()[-1]) == (2, f'dkszoo: error: {line}')


def test_a_file_to_start_from_that_cannot_be_read_is_not_the_folder(run_cli, monkeypatch, tmp_path):
    denied = OSError(errno.EACCES, 'Denied', 'elsewhere/last.pth.tar')
    monkeypatch.setattr(Trainer, 'resume', lambda _: (_ for _ in ()).throw(denied))
    code, _, err = run_cli(*TRAIN, '--output', 'runs', '--experiment', 'r')
    assert code == 2
    assert err.splitlines()[-1].startswith("dkszoo: error: [Errno 13] Denied: 'elsewhere/last.pth.tar'")


@pytest.mark.parametrize('name', ['.', '..'])
def test_a_run_stays_below_its_output_folder(run_cli, tmp_path, name):
    (tmp_path / 'mine.pth.tar').write_text('mine')
    code, _, err = run_cli('train', '--experiment', name, '--overwrite')
    assert code == 2
    assert 'is not a folder name' in err
    assert [path.name for path in tmp_path.iterdir()] == ['mine.pth.tar']


def test_only_the_files_of_a_run_are_overwritten(run_cli, tmp_path):
    argv = ('train', '--config', 'quickstart', '--epochs', '1', '--train-num-samples', '64', '--device', 'cpu')
    assert run_cli(*argv)[0] == 0
    (tmp_path / 'runs/quickstart/mine.pth.tar').write_text('mine')
    assert run_cli(*argv, '--overwrite')[0] == 0
    assert (tmp_path / 'runs/quickstart/mine.pth.tar').read_text() == 'mine'
