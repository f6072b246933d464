"""A setting reaches what it is for, under its own name."""

import dataclasses
import multiprocessing

import pytest
import timm
import torch
from setups import made

from dkszoo import DeepSupervisionTask
from dkszoo.data import Augmentation
from dkszoo.engine import StopRequest, TrainConfig
from dkszoo.engine.data import open_data
from dkszoo.engine.evaluate import best_by, evaluate
from dkszoo.engine.folder import RunFolder
from dkszoo.engine.step import Stepper
from dkszoo.engine.teacher import build_teacher
from dkszoo.engine.trainer import Trainer
from dkszoo.engine.world import World

IMAGES, LABELS = torch.rand(4, 1, 32, 32), torch.arange(4)


@pytest.mark.parametrize(('mode', 'left_out'), [('norm', 0), ('value', 0), ('agc', 2)])
def test_kinds_of_clipping(monkeypatch, mode, left_out):
    seen = []

    def clip(parameters, value, mode):
        seen.append((len(parameters), value, mode))

    monkeypatch.setattr('dkszoo.engine.step.dispatch_clip_grad', clip)
    setup = made(clip_grad=0.5, clip_mode=mode)
    Stepper(setup)(IMAGES, LABELS, 0, 0)
    total = len(list(setup.task.get_trainable_module().parameters()))
    assert seen == [(total - left_out, 0.5, mode)]  # AGC leaves the classifier out


def test_clipping_in_mixed_precision():
    setup, seen = made(amp=True, clip_grad=0.5, clip_mode='agc'), []
    setup.scaler = lambda loss, optimizer, **how: seen.append(how)
    Stepper(setup)(IMAGES, LABELS, 0, 0)
    left_out = len(list(setup.task.get_trainable_module().parameters())) - len(seen[0].pop('parameters'))
    assert left_out == 2
    assert seen == [{'clip_grad': 0.5, 'clip_mode': 'agc', 'need_update': True}]


def test_augmentation():
    mixed = made(mixup=0.2, cutmix=1.0).mixup
    assert (mixed.mixup_alpha, mixed.cutmix_alpha) == (0.2, 1.0)
    assert (mixed.mix_prob, mixed.switch_prob, mixed.mode) == (1.0, 0.5, 'batch')
    mixed = made(mixup=0.2, mixup_prob=0.3, mixup_switch_prob=0.1, mixup_mode='elem').mixup
    assert (mixed.mix_prob, mixed.switch_prob, mixed.mode) == (0.3, 0.1, 'elem')
    found = made(pad=1, hflip=0.25, vflip=0.1, reprob=0.3, cutout=4).loader.augmentation
    assert found == Augmentation(1, 'constant', 0.25, 0.3, 4, 0.1)
    transform = made(img_size=96, train_crop_mode='rkrc').data.train.transform
    assert 'CenterCropOrPad' in {type(step).__name__ for step in transform.transforms[0].transforms}


def test_single_images_are_transformed_as_asked():
    def steps(**settings) -> dict:
        transform = made(img_size=96, in_chans=3, **settings).data.train.transform.transforms[0]
        return {type(step).__name__: step for step in getattr(transform, 'transforms', [transform])}

    found = steps(color_jitter=0.1, hflip=0.25, reprob=0.3, interpolation='bicubic', mean=(0.1,), std=(0.2,))
    assert found['ColorJitter'].brightness == (0.9, 1.1)
    assert (found['RandomHorizontalFlip'].p, found['RandomErasing'].probability) == (0.25, 0.3)
    assert found['RandomResizedCropAndInterpolation'].interpolation.value == 'bicubic'
    assert [float(v[0]) for v in (found['Normalize'].mean, found['Normalize'].std)] == pytest.approx([0.1, 0.2])
    assert found['RandomResizedCropAndInterpolation'].scale == (0.08, 1.0)
    more = {'train_interpolation': 'random', 'scale': (0.3, 0.9), 'ratio': (0.8, 1.1)}
    found = steps(interpolation='bilinear', vflip=0.2, reprob=0.3, remode='rand', **more)
    crop = found['RandomResizedCropAndInterpolation']
    assert (crop.scale, crop.ratio, len(crop.interpolation)) == ((0.3, 0.9), (0.8, 1.1), 2)
    assert found['RandomVerticalFlip'].p == 0.2
    assert found['RandomErasing'].rand_color
    assert 'RandAugment' in steps(aa='rand-m9')
    squashed = steps(train_crop_mode='squash', crop_pct=0.5, train_interpolation='random')
    assert (squashed['Resize'].size, squashed['Resize'].interpolation.value) == ((192, 192), 'bilinear')
    assert made(loader='timm', workers=1).loader.num_workers == 1


def test_images_in_memory_are_resized_as_asked():
    plain, asked = (made(img_size=48, **more).loader.images for more in ({}, {'interpolation': 'bicubic'}))
    assert not torch.equal(plain, asked)


def test_evaluation(monkeypatch, tmp_path):
    loaders, calls = [], []
    monkeypatch.setattr('dkszoo.engine.trainer.eval_loader', lambda view, **how: loaders.append(how))
    monkeypatch.setattr('dkszoo.engine.trainer.evaluate', lambda *args: calls.append(args))
    asked = {'img_size': 48, 'mean': (0.1,), 'std': (0.2,), 'workers': 1, 'interpolation': 'bicubic', 'crop_pct': 0.5}
    asked['crop_mode'] = 'border'
    setup = made(**asked, validation_batch_size=7, channels_last=True)
    Trainer(setup, RunFolder(tmp_path), StopRequest()).evaluate('val')
    device = setup.world.device
    assert loaders == [{**asked, 'batch_size': 7, 'device': device, 'distributed': False}] * 2
    assert calls[0][2:4] == (device, True)


def test_loading_processes_end_with_the_training(tmp_path):
    setup = made(loader='timm', workers=1, epochs=1, train_num_samples=16, val_split=0.01)
    Trainer(setup, RunFolder(tmp_path), StopRequest()).fit()
    assert setup.loader._iterator is not None  # still there, as it is if Python has not collected it
    assert not multiprocessing.active_children()


def test_running_statistics_of_the_average_are_the_first_processes_too(tmp_path, monkeypatch):
    setup, shared = made(model_ema=True, epochs=1), []
    monkeypatch.setattr(World, 'share_buffers', lambda _, net: shared.append(net))
    Trainer(setup, RunFolder(tmp_path), StopRequest()).fit()
    assert shared == [setup.task.get_net(), setup.task.get_net(ema=True)]


@pytest.mark.parametrize('asked', [True, False])
def test_layout(asked):
    setup, seen = made(channels_last=asked, in_chans=3), []
    net, images = setup.task.get_net(), torch.rand(4, 3, 32, 32)
    given, _ = Stepper(setup).to_device(images, LABELS)
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    evaluate(net, [(images, LABELS)], setup.world.device, asked)
    weight = net.backbone.layer1[0].conv1.weight
    assert [t.is_contiguous(memory_format=torch.channels_last) for t in (weight, given, *seen)] == [asked] * 3


def test_every_step_mixes_anew_in_every_process():
    setup = made(mixup=1.0)
    stepper, other = Stepper(setup), Stepper(dataclasses.replace(setup, world=World(setup.world.device, 1, 2)))
    first, again, next_step, next_epoch = (
        stepper.mix(IMAGES.clone(), LABELS, *at)[1] for at in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step)
    assert not torch.equal(first, next_epoch)
    assert not torch.equal(first, other.mix(IMAGES.clone(), LABELS, 0, 0)[1])


def test_an_odd_batch_is_mixed_without_its_last_image(tmp_path):
    images, targets = Stepper(made(mixup=1.0)).mix(torch.rand(5, 1, 32, 32), torch.arange(5), 0, 0)
    assert (len(images), len(targets)) == (4, 4)
    trainer = Trainer(made(mixup=1.0, train_num_samples=21), RunFolder(tmp_path), StopRequest())
    trainer.train_epoch()
    assert trainer.progress.sums['samples'] == 20


def test_mixing_ends():
    stepper = Stepper(made(mixup=1.0, mixup_off_epoch=3, smoothing=0.1))
    last, after = (stepper.mix(IMAGES.clone(), LABELS, epoch, 0) for epoch in (2, 3))
    assert not torch.equal(last[0], IMAGES)
    assert torch.equal(after[0], IMAGES)
    assert torch.allclose(after[1], torch.eye(10)[LABELS] * 0.9 + 0.01)


def test_wrong_labels_are_trained_on():
    _, data = open_data(TrainConfig(label_noise=0.5))
    wrong, right = {flip.index: flip.new for flip in data.flips}, data.train.base.targets
    expected = [wrong.get(int(i), right[i]) for i in data.train.indices]
    assert [data.train[i][1] for i in range(len(data.train))] == expected


def test_wrong_labels_are_classes_of_the_data():
    _, data = open_data(TrainConfig(label_noise=1.0, num_classes=20))
    assert {flip.new for flip in data.flips} == set(range(10))


def test_mixed_precision():
    result, _ = Stepper(made(amp=True))(IMAGES, LABELS, 0, 0)
    assert result['output'].dtype == torch.float16


@pytest.mark.parametrize(('name', 'scales'), [('float16', True), ('bfloat16', False)])
def test_the_type_of_mixed_precision(name, scales):
    setup = made(amp=True, amp_dtype=name)
    with Stepper(setup).autocast():
        assert torch.get_autocast_dtype('cpu') == getattr(torch, name)
    assert (setup.scaler is not None) == scales


@pytest.mark.parametrize('mode', [None, 'max-autotune-no-cudagraphs'])
def test_how_it_is_compiled(monkeypatch, mode):
    seen = []
    monkeypatch.setattr(DeepSupervisionTask, 'compile', lambda self, **how: seen.append(how))
    assert made(torchcompile=True, torchcompile_mode=mode).compiled
    assert seen == [{'mode': mode, 'dynamic': False}]


def test_the_figure_that_chooses():
    assert best_by(TrainConfig(method='ds', ce_weight=0.0)) == 'branch0_top1'
    assert best_by(TrainConfig(best_on='test')) == 'test_top1'


@pytest.mark.parametrize(
    ('method', 'settings', 'learns'),
    [
        ('ds', {}, False),
        ('dks', {}, True),
        ('dks', {'beta': 0.0}, False),
        ('dks', {'synergy': 'top-down'}, False),
        ('dks', {'synergy': 'bottom-up'}, True),
        ('dks', {'beta': ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 1.0))}, False),
        ('dks', {'beta': ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0))}, True),
        ('kd+ds', {}, True),
        ('kd+ds', {'kd_on': 'branches'}, False),
        ('kd+ds', {'kd_weight': 0.0}, False),
        ('dskd', {}, True),
        ('dskd', {'kd_on': 'branches'}, False),
        ('byot', {}, False),
        ('at+ds', {}, False),
        ('fitnet', {}, True),
    ],
)
def test_the_figure_that_chooses_is_of_a_head_that_learns(method, settings, learns):
    """Without branches there is only the main head's."""
    config = TrainConfig(method=method, ce_weight=0.0, **settings)
    assert best_by(config) == ('top1' if learns else 'branch0_top1')


def test_the_teachers_type(tmp_path):
    torch.save(timm.create_model('cifar_resnet8', num_classes=10, in_chans=1).state_dict(), tmp_path / 't.pth')
    config, _ = open_data(TrainConfig(method='kd', kd_checkpoint=str(tmp_path / 't.pth'), kd_dtype='float16'))
    found = build_teacher(config)
    assert found.dtype == next(found.model.parameters()).dtype == torch.float16
