"""Batch augmentation: the same pixels as torchvision for the same choices, and choices of the same distribution."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torchvision import transforms
from torchvision.transforms import functional

from dkszoo.data import Augmentation, train_transform
from dkszoo.data.augment import Choices, crop, draw_choices, draw_erasing, flip, hide, normalise, pad_images
from dkszoo.data.stream import seed_cpu
from dkszoo.data.transforms import Cutout

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def images(total: int, chans: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randint(
        0, 256, (total, chans, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def as_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy().squeeze())


def column(values) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


@pytest.mark.parametrize('chans', [1, 3])
@pytest.mark.parametrize(('pad', 'mode'), [(4, 'constant'), (4, 'reflect'), (2, 'constant'), (0, 'constant')])
def test_the_same_pixels_as_torchvision(pad, mode, chans):
    batch = images(50, chans)
    choices = draw_choices(50, 32, Augmentation(pad, mode, 0.5, vflip=0.3), seed=1)
    index = torch.randperm(50)
    padded = pad_images(batch, Augmentation(pad, mode)).contiguous()
    chosen = choices.of(index)
    result = flip(crop(padded, index, chosen.top, chosen.left, 32), chosen.hflip, -1)
    result = normalise(flip(result, chosen.vflip, -2), torch.tensor(255.0), column(MEAN[:chans]), column(STD[:chans]))
    assert result.dtype == torch.float32
    for i, sample in enumerate(index.tolist()):
        image = functional.pad(as_pil(batch[sample]), [pad] * 4, padding_mode=mode)
        image = functional.crop(image, int(choices.top[sample]), int(choices.left[sample]), 32, 32)
        image = functional.hflip(image) if choices.hflip[sample] else image
        image = functional.vflip(image) if choices.vflip[sample] else image
        expected = functional.normalize(functional.to_tensor(image), MEAN[:chans], STD[:chans])
        assert torch.equal(result[i], expected)


def test_normalise_is_exact_for_every_byte():
    batch = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = functional.normalize(functional.to_tensor(as_pil(batch[0])), MEAN, STD)
    assert torch.equal(normalise(batch, torch.tensor(255.0), column(MEAN), column(STD))[0], expected)


def test_reflection_has_a_limit():
    with pytest.raises(ValueError, match='--pad'):
        pad_images(images(1, size=8), Augmentation(8, 'reflect'))


def test_hide_boxes():
    edges = torch.tensor([[0, 2, -3, 30], [0, 5, 4, 40], [0, 0, 28, -2], [0, 32, 35, 3]])
    batch = torch.rand(4, 3, 32, 32) + 1
    result = hide(batch.clone(), tuple(edges))
    for i, (top, bottom, left, right) in enumerate(edges.T.tolist()):
        expected = batch[i].clone()
        expected[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 0
        assert torch.equal(result[i], expected)


def test_choices_are_uniform():
    total = 100_000
    choices = draw_choices(total, 32, Augmentation(4, 'constant', 0.3, vflip=0.6), seed=3)
    for edge in (choices.top, choices.left):
        counts = torch.bincount(edge, minlength=9)
        assert len(counts) == 9
        chi2 = ((counts - total / 9) ** 2 / (total / 9)).sum()
        assert chi2 < 26.1  # 99.9 % quantile, 8 degrees of freedom
    assert abs(choices.hflip.float().mean() - 0.3) < 0.006
    assert abs(choices.vflip.float().mean() - 0.6) < 0.006
    together = torch.stack([choices.top, choices.left, choices.hflip.long(), choices.vflip.long()]).double()
    off_diagonal = torch.corrcoef(together) - torch.eye(4)
    assert off_diagonal.abs().max() < 0.015


def test_choices_belong_to_seed_and_sample():
    augmentation = Augmentation(4, 'constant', 0.5, 0.5, 8)
    first, again, other = (draw_choices(100, 32, augmentation, seed) for seed in (1, 1, 2))
    assert torch.equal(first.top, again.top)
    assert torch.equal(first.boxes[0][0], again.boxes[0][0])
    assert not torch.equal(first.top, other.top)
    both = draw_choices(100, 32, dataclasses.replace(augmentation, vflip=0.5), 1)
    assert torch.equal(both.hflip, first.hflip)
    assert torch.equal(both.boxes[1][0], first.boxes[1][0])
    index = torch.tensor([7, 3])
    assert torch.equal(first.of(index).boxes[1][3], first.boxes[1][3][index])
    assert torch.equal(both.of(index).vflip, both.vflip[index])


def hidden(images: torch.Tensor) -> np.ndarray:
    """Share of hidden pixels per image, and share of images in which each pixel is hidden."""
    mask = (images[:, 0] == 0).double()
    return mask.mean(dim=(1, 2)).numpy(), mask.mean(dim=0).numpy()


@pytest.mark.parametrize(
    ('augmentation', 'one_image'),
    [
        (Augmentation(re_prob=0.5), RandomErasing(0.5, mode='const', device='cpu')),
        (Augmentation(cutout=16), Cutout(16)),
        (Augmentation(cutout=7), Cutout(7)),
    ],
    ids=['erasing', 'cutout16', 'cutout7'],
)
def test_hides_as_much_as_one_image_at_a_time(augmentation, one_image):
    total = 4000
    choices = draw_choices(total, 32, augmentation, seed=5)
    ours, our_map = hidden(hide(torch.ones(total, 1, 32, 32), choices.boxes[0]))
    seed_cpu(6)
    theirs, their_map = hidden(torch.stack([one_image(torch.ones(1, 32, 32)) for _ in range(total)]))
    assert abs((ours == 0).mean() - (theirs == 0).mean()) < 0.04
    grid = np.linspace(0.001, 1, 60)
    ours, theirs = ((grid[:, None] >= shares).mean(axis=1) for shares in (ours, theirs))
    assert abs(ours - theirs).max() < 1.95 * np.sqrt(2 / total)  # Kolmogorov-Smirnov, 0.1 %
    assert abs(our_map - their_map).max() < 0.06


def test_the_same_distribution_as_one_image_at_a_time():
    """Mean and spread of every pixel over many draws of the same image, in a batch and one by one."""
    image, total = images(1), 3000
    augmentation = Augmentation(4, 'reflect', 0.5)
    transform = train_transform(32, MEAN, STD, augmentation)
    seed_cpu(8)
    theirs = torch.stack([transform(as_pil(image[0])) for _ in range(total)]).double()
    chosen = draw_choices(total, 32, augmentation, seed=9)
    padded = pad_images(image, augmentation).contiguous()
    ours = flip(crop(padded, torch.zeros(total, dtype=torch.long), chosen.top, chosen.left, 32), chosen.hflip, -1)
    ours = normalise(ours, torch.tensor(255.0), column(MEAN), column(STD)).double()
    error = (theirs.var(0) / total * 2).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 5.5
    assert (ours.std(0) / theirs.std(0)).sub(1).abs().max() < 0.12


def test_one_image_transform_orders_its_steps():
    transform = train_transform(32, MEAN, STD, Augmentation(4, 'constant', 0.5, 0.25, 8, 0.1, 'pixel'))
    names = [type(step).__name__ for step in transform.transforms]
    flips = ['RandomHorizontalFlip', 'RandomVerticalFlip']
    assert names[-6:] == [*flips, 'ToTensor', 'Normalize', 'RandomErasing', 'Cutout']
    assert transform.transforms[-5].p == 0.1
    assert transform.transforms[-2].per_pixel
    assert isinstance(
        train_transform(32, MEAN, STD, Augmentation(cutout=8), auto_augment='rand-m9').transforms[-1], Cutout
    )
    plain = train_transform(32, MEAN, STD, Augmentation(4, 'constant', 1.0, 1.0, 8), no_aug=True)
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    image = as_pil(images(1)[0])
    assert torch.equal(plain(image), expected(image))


def test_choices_move():
    moved = draw_choices(4, 32, Augmentation(4, re_prob=1.0), seed=0).to(torch.device('meta'))
    assert isinstance(moved, Choices)
    assert {moved.top.device.type, moved.boxes[0][1].device.type} == {'meta'}


@pytest.mark.parametrize(
    ('strength', 'policy', 'jitter'), [(0.4, None, True), (0.0, None, False), (0.4, 'rand-m9', False)]
)
def test_colour_jitter_of_large_images(strength, policy, jitter):
    transform = train_transform(96, MEAN, STD, Augmentation(), auto_augment=policy, color_jitter=strength)
    assert any(isinstance(step, transforms.ColorJitter) for step in transform.transforms[0].transforms) is jitter


def test_squash_is_a_random_crop_of_the_whole_image_resized():
    image = Image.fromarray(images(1, size=300)[0].permute(1, 2, 0).numpy()[:150])  # twice as wide as high
    transform = train_transform(96, (0, 0, 0), (1, 1, 1), Augmentation(hflip=0.5), crop_mode='squash', crop_pct=0.75)
    resized = functional.to_tensor(functional.resize(image, (128, 128)))
    windows = torch.stack((resized, resized.flip(-1))).unfold(2, 96, 1).unfold(3, 96, 1)  # [flip, C, top, left, H, W]
    seen = set()
    for seed in range(12):
        seed_cpu(seed)
        equal = (windows == transform(image)[:, None, None]).all(-1).all(-1).all(1)
        assert equal.sum() == 1
        seen.add(tuple(equal.nonzero()[0].tolist()))
    assert {flipped for flipped, _, _ in seen} == {0, 1}
    assert len({top for _, top, _ in seen}) > 6


def test_squash_leaves_enough_to_crop_where_the_crop_is_more_than_all():
    transform = train_transform(96, (0,), (1,), Augmentation(hflip=0.0), crop_mode='squash', crop_pct=1.15)
    image = Image.linear_gradient('L')
    assert torch.equal(transform(image), functional.to_tensor(functional.resize(image, (96, 96))))


@pytest.mark.parametrize('mode', ['rrc', 'rkrc', 'rkrr'])
def test_timms_training_crops(mode):
    names = [
        type(step).__name__
        for step in train_transform(96, MEAN, STD, Augmentation(), crop_mode=mode).transforms[0].transforms
    ]
    crops = {'rrc': 'RandomResizedCropAndInterpolation', 'rkrc': 'CenterCropOrPad', 'rkrr': 'RandomCropOrPad'}
    assert {name for name in names if 'Crop' in name} == {crops[mode]}


@pytest.mark.parametrize(('side', 'small'), [(64, True), (65, False)])
def test_images_up_to_64_px_are_small(side, small):
    steps = train_transform(side, MEAN, STD, Augmentation(4)).transforms
    assert (transforms.RandomCrop in map(type, steps)) == small


def test_large_images_are_augmented_as_asked():
    mean, std = (0.1,) * 3, (0.2,) * 3
    transform = train_transform(96, mean, std, Augmentation(hflip=0.25, re_prob=0.5), interpolation='bicubic')
    found = {type(step).__name__: step for step in transform.transforms[0].transforms}
    assert found['RandomHorizontalFlip'].p == 0.25
    assert found['RandomErasing'].probability == 0.5
    assert found['RandomResizedCropAndInterpolation'].interpolation == transforms.InterpolationMode.BICUBIC
    assert torch.as_tensor(found['Normalize'].mean).tolist() == pytest.approx(mean)
    assert torch.as_tensor(found['Normalize'].std).tolist() == pytest.approx(std)


def test_erasing_goes_up_to_a_third_and_to_every_border():
    values = iter((1 - 1e-9, 0.5, 0.0, 1 - 1e-9, 1 - 1e-9))  # area, aspect, whether to erase, row, column
    uniform = lambda *shape: torch.full(shape, next(values), dtype=torch.float64)  # noqa: E731
    assert [int(edge) for edge in draw_erasing(uniform, 1, 32, 0.5)] == [14, 32, 14, 32]


@pytest.mark.parametrize('aspect', [(1 + math.log(3) / math.log(1 / 0.3)) / 2, 1 - 1e-9])  # of 32 and of 34 rows
def test_a_rectangle_as_high_as_the_image_is_not_erased(aspect):
    values = iter((1 - 1e-9, aspect, 0.0, 0.0, 0.0))
    uniform = lambda *shape: torch.full(shape, next(values), dtype=torch.float64)  # noqa: E731
    top, bottom, left, right = draw_erasing(uniform, 1, 32, 0.5)
    assert (bottom - top, right - left) == (0, 0)


@pytest.mark.parametrize('crop_mode', ['rrc', 'squash'])
def test_no_aug_of_large_images(crop_mode):
    image = Image.linear_gradient('L').resize((140, 120)).convert('RGB')
    transform = train_transform(96, (0,) * 3, (1,) * 3, Augmentation(), no_aug=True, crop_mode=crop_mode)
    assert all(torch.equal(transform(image), transform(image)) for _ in range(3))


@pytest.mark.parametrize(('policy', 'kinds'), [('rand-m9', ['RandAugment']), ('3a', ['AutoAugment', 'ColorJitter'])])
def test_a_policy_follows_crop_and_flip_of_small_images(policy, kinds):
    transform = train_transform(32, MEAN, STD, Augmentation(4, 'reflect', 0.25, 0.5), auto_augment=policy)
    *_, crop, flip, changes, to_tensor, _, erasing = transform.transforms
    assert (crop.padding, crop.padding_mode, flip.p, erasing.probability) == (4, 'reflect', 0.25, 0.5)
    assert [type(step).__name__ for step in changes.transforms] == kinds
    assert isinstance(to_tensor, transforms.ToTensor)
    assert transform(as_pil(images(1)[0])).shape == (3, 32, 32)
