"""The in-memory loader: the same stream everywhere, the same pixels as timm's, bit-identical evaluation."""

import random

import numpy as np
import pytest
import torch
from small_files import random_set, write_cifar, write_idx
from timm.data import create_loader

from dkszoo.data import (
    ArrayImages,
    Augmentation,
    MemoryLoader,
    StreamSampler,
    View,
    choose_loader,
    is_small,
    mixed_seed,
    pixel_transform,
    read_pixels,
    stream_loader,
)
from dkszoo.data.augment import draw_choices
from dkszoo.data.stream import Stream
from dkszoo.engine import TrainConfig, eval_loader
from dkszoo.engine.data import open_data, train_stream
from dkszoo.engine.world import World

CPU = torch.device('cpu')
FULL = Augmentation(4, 'reflect', 0.5, 0.5, 8, 0.5)


def view(total: int = 70, shape=(32, 32, 3), mode: str = 'RGB') -> View:
    images, labels = random_set(total, shape, 10, seed=1)
    return View(ArrayImages(images, labels, [str(i) for i in range(10)]), None, mode)


def loader(samples: View, batch_size: int = 16, seed: int = 3, augmentation: Augmentation = FULL, rank=0, world=1):
    pixels, targets = read_pixels(samples, pixel_transform(32, 'bilinear'))
    sampler = StreamSampler(len(samples), batch_size, seed, rank, world)
    return MemoryLoader(pixels, targets, sampler, augmentation, (0.5,) * 3, (0.2,) * 3, CPU)


def batches(memory: MemoryLoader, epoch: int, start: int = 0) -> list:
    memory.sampler.set_position(epoch, start)
    return list(memory)


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


def test_stream_depends_on_seed_and_epoch_alone():
    samples = view()
    whole = batches(loader(samples), 2)
    assert [len(targets) for _, targets in whole] == [16, 16, 16, 16, 6]
    assert len(loader(samples)) == 5
    memory = loader(samples)
    batches(memory, 0)
    assert equal(batches(memory, 2), whole)
    assert equal(batches(memory, 2, start=3), whole[3:])
    assert len(memory) == 2
    assert not equal(batches(memory, 1), whole)
    assert not equal(batches(loader(samples, seed=4), 2), whole)


def test_two_processes_share_the_batches_of_one():
    samples = view()
    whole = batches(loader(samples), 1)
    halves = [batches(loader(samples, 8, rank=rank, world=2), 1) for rank in range(2)]
    for (images, targets), first, second in zip(whole, *halves, strict=True):
        assert torch.equal(images, torch.cat([first[0], second[0]]))
        assert torch.equal(targets, torch.cat([first[1], second[1]]))


def test_what_a_sample_gets_does_not_depend_on_the_batch():
    samples = view()
    order = loader(samples).sampler.order(5)
    small, large = (torch.cat([images for images, _ in batches(loader(samples, size), 5)]) for size in (7, 35))
    assert torch.equal(small, large)
    assert len(small) == len(order)


@pytest.mark.parametrize(('name', 'dim'), [('hflip', -1), ('vflip', -2)])
def test_flips(name, dim):
    samples = view()
    (plain, _), (flipped, _) = (
        batches(loader(samples, augmentation=Augmentation(**more)), 0)[0] for more in ({}, {name: 1.0})
    )
    assert torch.equal(flipped, plain.flip(dim))


def test_global_generators_are_left_alone():
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    batches(loader(view()), 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_targets_come_through_the_view():
    class Relabelled(View):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], 9 - index % 2

    base = view()
    images, targets = read_pixels(Relabelled(base.base, [4, 2, 0]), pixel_transform(32, 'bilinear'))
    assert targets.tolist() == [9, 8, 9]
    assert torch.equal(images[1], torch.from_numpy(base.base.images[2]).permute(2, 0, 1))
    read_pixels(base, pixel_transform(32, 'bilinear'))
    assert base.transform is None
    base.targets = list(range(70))  # as label noise does
    assert read_pixels(base, pixel_transform(32, 'bilinear'))[1].tolist() == base.targets


def config(dataset: str, data_dir, **kwargs) -> TrainConfig:
    return TrainConfig(dataset=dataset, data_dir=data_dir and str(data_dir), workers=0, **kwargs)


def first_batches(settings: TrainConfig) -> list:
    settings, data = open_data(settings)
    sampler, stream = train_stream(settings, data.train, World(CPU))
    sampler.set_position(1)
    return list(stream)


@pytest.mark.parametrize('kind', ['digits', 'mnist', 'mnist3', 'cifar'])
def test_both_loaders_without_augmentation_give_the_same_bits(tmp_path, kind):
    if kind == 'cifar':
        write_cifar(tmp_path, 10)
    elif kind != 'digits':
        write_idx(tmp_path, packed=True, total=100)
    dataset = {'digits': 'digits', 'cifar': 'torch/cifar10'}.get(kind, 'torch/fashion_mnist')
    kwargs = dict(no_aug=True, in_chans=3 if kind == 'mnist3' else None)
    memory, one = (
        first_batches(config(dataset, None if kind == 'digits' else tmp_path, loader=name, **kwargs))
        for name in ('memory', 'timm')
    )
    assert memory[0][0].shape[1:] == (1 if kind in ('digits', 'mnist') else 3, 32, 32)
    assert equal(memory, one)


@pytest.mark.parametrize(
    ('shape', 'mode'), [((28, 28), 'L'), ((28, 28), 'RGB'), ((32, 32, 3), 'RGB'), ((40, 40, 3), 'RGB')]
)
@pytest.mark.parametrize(('crop_pct', 'interpolation'), [(1.0, 'bilinear'), (0.875, 'bicubic')])
@pytest.mark.parametrize('crop_mode', ['center', 'squash', 'border'])
def test_evaluation_batches_are_timms_to_the_bit(shape, mode, crop_pct, interpolation, crop_mode):
    samples = view(21, shape, mode)
    stats = dict(mean=(0.2860,), std=(0.3530,)) if mode == 'L' else dict(mean=(0.51, 0.49, 0.44), std=(0.2, 0.3, 0.25))
    how = dict(interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode)
    size = (len(stats['mean']), 32, 32)
    ours = eval_loader(samples, img_size=32, **stats, batch_size=8, workers=0, **how)
    theirs = create_loader(
        samples, size, 8, use_prefetcher=False, num_workers=0, persistent_workers=False, **stats, **how
    )
    assert len(ours) == len(theirs) == 3
    assert equal(ours, theirs)
    assert equal(ours, ours)


def test_auto_takes_memory_where_it_can(monkeypatch):
    small = view()
    folder = View([(None, 0)] * 9)
    choose = dict(img_size=32, in_chans=3, augmentation=Augmentation(4), auto_augment=None)
    assert choose_loader('auto', small, **choose) == 'memory'
    assert choose_loader('timm', small, **choose) == 'timm'
    assert choose_loader('auto', folder, **choose) == 'timm'
    assert choose_loader('memory', folder, **choose) == 'memory'
    for img_size, chosen in ((64, 'memory'), (65, 'timm'), (224, 'timm')):
        assert choose_loader('auto', small, **{**choose, 'img_size': img_size}) == chosen
    assert choose_loader('auto', small, **{**choose, 'auto_augment': 'rand-m9'}) == 'timm'
    with pytest.raises(ValueError, match='--loader memory cannot do --aa rand-m9'):
        choose_loader('memory', small, **{**choose, 'auto_augment': 'rand-m9'})
    assert choose_loader('memory', small, **{**choose, 'augmentation': Augmentation(4, re_prob=0.1)}) == 'memory'
    noisy = {**choose, 'augmentation': Augmentation(4, re_prob=0.1, re_mode='pixel')}
    assert choose_loader('auto', small, **noisy) == 'timm'
    with pytest.raises(ValueError, match='--loader memory cannot do --remode pixel'):
        choose_loader('memory', small, **noisy)
    assert choose_loader('auto', small, **{**choose, 'augmentation': Augmentation(4, re_mode='pixel')}) == 'memory'
    with pytest.raises(ValueError, match='up to 64'):
        choose_loader('memory', small, **{**choose, 'img_size': 224})
    monkeypatch.setattr('dkszoo.data.memory.LIMIT', 70 * 3 * 40 * 40 - 1)
    assert choose_loader('auto', small, **choose) == 'timm'
    assert is_small(small, 32, 3)


def test_the_choice_is_part_of_the_settings():
    settings, _ = open_data(config('digits', None))
    assert settings.loader == 'memory'
    assert 'loader' in settings.fixed()
    assert open_data(config('digits', None, aa='rand-m9'))[0].loader == 'timm'


@pytest.mark.parametrize('val_split', [0.0, 0.25])
def test_train_num_samples(tmp_path, val_split):
    write_idx(tmp_path, packed=True, total=400)
    how = dict(val_split=val_split, best_on='val' if val_split else 'test')

    def parts(count):
        _, data = open_data(config('torch/kmnist', tmp_path, train_num_samples=count, **how))
        return data

    everything, some, fewer = parts(None), parts(120), parts(25)
    assert len(some.train) == 120
    assert np.bincount([some.train[i][1] for i in range(120)]).tolist() == [12] * 10
    assert sorted(np.bincount([fewer.train[i][1] for i in range(25)]).tolist()) == [2] * 5 + [3] * 5
    assert set(fewer.train.indices) < set(some.train.indices) < set(everything.train.indices)
    assert some.train.indices == parts(120).train.indices
    if val_split:
        assert some.val.indices == everything.val.indices
        assert not set(some.val.indices) & set(some.train.indices)
    with pytest.raises(ValueError, match='--train-num-samples must be at least 1'):
        parts(0)
    with pytest.raises(ValueError, match='train on 401 of'):
        parts(401)


@pytest.mark.gpu
def test_on_cuda_the_same_bits_and_no_waiting():
    device, samples = torch.device('cuda'), view()
    pixels, targets = read_pixels(samples, pixel_transform(32, 'bilinear'))
    loaders = [
        MemoryLoader(pixels, targets, StreamSampler(70, 16, 3), FULL, (0.5,) * 3, (0.2,) * 3, where)
        for where in (CPU, device)
    ]
    expected, iterator = batches(loaders[0], 0), iter(loaders[1])
    result = [next(iterator)]
    torch.cuda.set_sync_debug_mode('error')
    try:
        result += list(iterator)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert result[0][0].device.type == 'cuda'
    assert equal(expected, [(images.cpu(), targets.cpu()) for images, targets in result])


def test_a_last_batch_of_one_is_left_out():
    assert [StreamSampler(n, 16, 0).steps for n in (32, 33, 34)] == [2, 2, 3]
    assert [StreamSampler(n, 8, 0, 0, 2).steps for n in (35, 36)] == [2, 3]


def test_every_epoch_has_an_order_and_an_augmentation_of_its_own():
    sampler = StreamSampler(50, 50, 3)
    assert not torch.equal(sampler.order(0), sampler.order(1))
    assert sorted(sampler.order(1).tolist()) == list(range(50))
    sampler.order = lambda epoch: torch.arange(50)
    pixels = torch.randint(0, 256, (50, 1, 32, 32), dtype=torch.uint8)
    device = torch.device('cpu')
    loader = MemoryLoader(pixels, torch.zeros(50), sampler, Augmentation(4, 'constant', 0.5), (0.5,), (0.5,), device)
    batches = []
    for epoch in (0, 1):
        sampler.set_position(epoch)
        batches.append(next(iter(loader))[0])
    assert not torch.equal(*batches)


def test_an_augmentation_is_drawn_from_another_seed_than_the_order(monkeypatch):
    seeds = []
    monkeypatch.setattr('dkszoo.data.memory.draw_choices', lambda *args: seeds.append(args[-1]) or draw_choices(*args))
    batches(loader(view()), 5)
    assert not {mixed_seed(3, 5), *(mixed_seed(3, 5, i) for i in range(70))} & set(seeds)


class Draws(torch.utils.data.Dataset):
    """Samples that show the next values of the global generators."""

    def __getitem__(self, index):
        return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_one_image_at_a_time_every_epoch_draws_a_sample_anew():
    (drawn,), (again,), (later,), (other,) = (
        Stream(Draws(), 3).__getitems__([key]) for key in ((0, 5), (0, 5), (1, 5), (0, 6))
    )
    assert again == drawn
    (with_another_seed,) = Stream(Draws(), 4).__getitems__([(0, 5)])
    for values in zip(drawn, later, other, with_another_seed, strict=True):
        assert len(set(values)) == 4


def test_one_image_at_a_time_leaves_the_global_generators_alone():
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    expected = Draws()[0]
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    Stream(Draws(), 3).__getitems__([(0, 5)])
    assert Draws()[0] == expected


def test_a_pass_over_single_images_leaves_the_global_generators_alone():
    samples, before = view(), torch.get_rng_state()
    samples.transform = pixel_transform(32, 'bilinear')
    assert len(list(stream_loader(samples, StreamSampler(70, 16, 3), 0, False))) == 5
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_are_those_of_all_versions():
    """On which the order and the augmentation of a run that goes on or is repeated depend."""
    assert [mixed_seed(42), mixed_seed(42, 3, 7)] == [6839728766377637706, 6167622215355815081]
