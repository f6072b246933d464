"""Training checkpoints as train.py writes them, made without training."""

import pytest
import torch

import dkszoo


@pytest.fixture
def make_checkpoint(tmp_path):
    """(name, model arguments, input size) -> a checkpoint of an untrained network with odd BN statistics, and it."""

    def make(name: str, args: dict, input_size: tuple[int, int, int], file: str = 'c.pth.tar'):
        torch.manual_seed(0)
        net = dkszoo.create_model(name, branches='dks', **args)
        net.train()(torch.randn(8, *input_size))
        task = dkszoo.DeepSupervisionTask(net)
        data = dict(
            input_size=list(input_size),
            mean=[0.5] * input_size[0],
            std=[0.2] * input_size[0],
            interpolation='bilinear',
            crop_pct=1.0,
            crop_mode='center',
        )
        model = dict(
            arch=name,
            model_args=args,
            design='dks',
            taps=list(net.taps),
            method='dks',
            class_names=[f'class {i}' for i in range(net.num_classes)],
            dataset='digits',
            data=data,
        )
        settings = dict(model=name, method='dks', lr=0.05, epochs=4, model_ema=False, data_dir='/somewhere')
        path = tmp_path / file
        own = {'format': 1, 'model': model}
        torch.save({**task.get_checkpoint_state(), 'epoch': 3, 'args': settings, 'dkszoo': own}, path)
        return path, net

    return make


@pytest.fixture
def checkpoint(make_checkpoint):
    """A small one."""
    return make_checkpoint('cifar_resnet8', dict(num_classes=4, channels=[4, 8, 16], stem_chs=4), (3, 32, 32))
