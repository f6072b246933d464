"""A setting reaches what it is for, under its own name."""

import pytest
import timm
import torch

from dkszoo.data import Augmentation
from dkszoo.engine import TrainConfig
from dkszoo.engine.evaluate import best_by
from dkszoo.engine.setup import build, open_data
from dkszoo.engine.step import Stepper
from dkszoo.engine.teacher import build_teacher
from dkszoo.engine.world import World

SMALL = {
    'model': 'cifar_resnet8',
    'model_kwargs': {'channels': [4, 8, 16], 'stem_chs': 4},
    'method': 'baseline',
    'train_num_samples': 64,
    'batch_size': 16,
}
IMAGES, LABELS = torch.rand(4, 1, 32, 32), torch.arange(4)


def made(**settings):
    config, data = open_data(TrainConfig(**{**SMALL, **settings}))
    return build(config, data, World(torch.device('cpu')))


@pytest.mark.parametrize(('mode', 'left_out'), [('norm', 0), ('value', 0), ('agc', 2)])
def test_kinds_of_clipping(monkeypatch, mode, left_out):
    seen = []

    def clip(parameters, value, mode):
        seen.append((len(parameters), value, mode))

    monkeypatch.setattr('dkszoo.engine.step.dispatch_clip_grad', clip)
    setup = made(clip_grad=0.5, clip_mode=mode)
    Stepper(setup)(IMAGES, LABELS, 0, 1, 0)
    total = len(list(setup.task.get_trainable_module().parameters()))
    assert seen == [(total - left_out, 0.5, mode)]  # AGC leaves the classifier out


def test_augmentation():
    mixed = made(mixup=0.2, cutmix=1.0).mixup
    assert (mixed.mixup_alpha, mixed.cutmix_alpha) == (0.2, 1.0)
    found = made(pad=1, hflip=0.25, reprob=0.3, cutout=4).loader.augmentation
    assert found == Augmentation(1, 'constant', 0.25, 0.3, 4)
    transform = made(img_size=96, train_crop_mode='rkrc').data.train.transform
    assert 'CenterCropOrPad' in {type(step).__name__ for step in transform.transforms[0].transforms}


def test_every_step_mixes_anew():
    stepper = Stepper(made(mixup=1.0))
    first, again, next_step, next_epoch = (
        stepper.mix(IMAGES.clone(), LABELS, *at)[1] for at in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step)
    assert not torch.equal(first, next_epoch)


def test_wrong_labels_are_trained_on():
    _, data = open_data(TrainConfig(label_noise=0.5))
    wrong, right = {flip.index: flip.new for flip in data.flips}, data.train.base.targets
    expected = [wrong.get(int(i), right[i]) for i in data.train.indices]
    assert [data.train[i][1] for i in range(len(data.train))] == expected


def test_wrong_labels_are_classes_of_the_data():
    _, data = open_data(TrainConfig(label_noise=1.0, num_classes=20))
    assert {flip.new for flip in data.flips} == set(range(10))


def test_mixed_precision():
    result, _ = Stepper(made(amp=True))(IMAGES, LABELS, 0, 1, 0)
    assert result['output'].dtype == torch.float16


def test_the_figure_that_chooses():
    assert best_by(TrainConfig(method='ds', ce_weight=0.0)) == 'branch0_top1'
    assert best_by(TrainConfig(method='dks', ce_weight=0.0)) == 'top1'  # others teach the main head
    assert best_by(TrainConfig(best_on='test')) == 'test_top1'


def test_the_teachers_type(tmp_path):
    torch.save(timm.create_model('cifar_resnet8', num_classes=10, in_chans=1).state_dict(), tmp_path / 't.pth')
    config, _ = open_data(TrainConfig(method='kd', kd_checkpoint=str(tmp_path / 't.pth'), kd_dtype='float16'))
    found = build_teacher(config, torch.device('cpu'))
    assert found.dtype == next(found.model.parameters()).dtype == torch.float16
