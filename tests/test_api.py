"""The Python interface as the README shows it."""

import subprocess
import sys

import pytest
import timm
import torch

import dkszoo


def test_import_registers_the_models(environment):
    code = "import timm, dkszoo; print(timm.create_model('cifar_wrn16_2', num_classes=10).num_classes)"
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == '10', done.stderr


def test_plain_backbone_and_branches():
    plain = dkszoo.create_model('cifar_resnet8', num_classes=7)
    assert type(plain) is type(timm.create_model('cifar_resnet8'))
    net = dkszoo.create_model('cifar_resnet8', num_classes=7, branches='dks')
    x = torch.randn(2, 3, 32, 32)
    for mode in (True, False):
        out = net.train(mode)(x)
        assert isinstance(out, dkszoo.DeepOutput)
        assert out.logits.shape == (2, 7)
        assert [z.shape for z in out.branch_logits] == [(2, 7)] * 2
        assert [s.shape[1] for s in out.stages] == [16, 32]
        assert [f.shape[1] for f in out.branch_features] == [64, 128]
        assert out.features.shape == (2, 64, 8, 8)
    assert dkszoo.strip(net) is net.backbone
    assert dkszoo.strip(plain) is plain
    assert torch.equal(net.eval().backbone(x), net(x).logits)
    assert set(net.backbone.state_dict()) == set(plain.state_dict())


def test_stochastic_parts_draw_the_same_as_in_the_plain_network():
    net = dkszoo.create_model('cifar_wrn16_1', branches='dks', block_drop_rate=0.3).train()
    x = torch.randn(4, 3, 32, 32)
    torch.manual_seed(0)
    main = net(x).logits
    torch.manual_seed(0)
    assert torch.equal(net.backbone(x), main)


def test_checkpoint_path(tmp_path):
    first = dkszoo.create_model('cifar_resnet8', num_classes=3)
    torch.save(first.state_dict(), tmp_path / 'w.pth')
    second = dkszoo.create_model('cifar_resnet8', num_classes=3, branches='dks', checkpoint_path=tmp_path / 'w.pth')
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in second.backbone.state_dict().items())
    with pytest.raises(ValueError, match='does not fit'):
        dkszoo.create_model('cifar_resnet14', num_classes=3, checkpoint_path=tmp_path / 'w.pth')


def test_unknown_names():
    with pytest.raises(ValueError, match='did you mean cifar_wrn16_2'):
        dkszoo.create_model('cifar_wrn16-2')
    with pytest.raises(ValueError, match='num_classes is 0'):
        dkszoo.create_model('cifar_resnet8', num_classes=0, branches='dks')
    with pytest.raises(ValueError, match='cannot carry branches'):
        dkszoo.attach_branches(torch.nn.Linear(2, 2), num_classes=2)


def test_list_models():
    names = dkszoo.list_models()
    some = dkszoo.list_models(['cifar_wrn16_*', 'cifar_resnet8'])
    assert some == [name for name in names if name == 'cifar_resnet8' or name.startswith('cifar_wrn16_')]
    assert {'cifar_resnet8', 'cifar_wrn28_10'} <= set(names)
    assert dkszoo.list_models('cifar_wrn*') == [n for n in names if n.startswith('cifar_wrn')]


def test_task_in_a_loop_of_ones_own():
    torch.manual_seed(0)
    net = dkszoo.create_model('cifar_resnet8', num_classes=5, branches='dks')
    task = dkszoo.DeepSupervisionTask(net, method='dks')
    optimizer = timm.optim.create_optimizer_v2(task.get_trainable_module(), 'sgd', lr=0.01)
    x, y = torch.randn(16, 3, 32, 32), torch.randint(0, 5, (16,))
    losses = []
    for _ in range(8):
        result = task(x, y)
        result['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(result['loss'].item())
        assert result['loss'].item() == pytest.approx(sum(result[k].item() for k in ('ce', 'ds', 'synergy')), rel=1e-5)
    assert losses[-1] < losses[0]
    assert task.get_eval_model() is net.backbone
    assert set(task.get_checkpoint_state()['state_dict']) == set(net.backbone.state_dict())


def test_taps_need_branches():
    with pytest.raises(ValueError, match='taps without branches'):
        dkszoo.create_model('cifar_resnet8', taps=[0])
