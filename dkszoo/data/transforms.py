"""Transforms of training images, one image at a time; evaluation uses timm's own."""

import math
from collections.abc import Callable, Sequence

import torch
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from .augment import Augmentation

SMALL = 64  # pixels; larger images are cropped as on ImageNet
POLICIES = 'such as rand-m9-mstd0.5, augmix-m3-w3, 3a, original or v0'


class Cutout:
    """Set a square around a random pixel of a normalised image [C, H, W] to 0, the mean colour.

    DeVries and Taylor, arXiv:1708.04552; the square may extend beyond the border.

    Args:
        side: Side of the square in pixels.
    """

    def __init__(self, side: int):
        self.side = side

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        top = int(torch.randint(height, ())) - self.side // 2
        left = int(torch.randint(width, ())) - self.side // 2
        image[..., max(top, 0) : top + self.side, max(left, 0) : left + self.side] = 0
        return image


def resize(img_size: int, interpolation: str) -> list[Callable]:
    """PIL image -> PIL image of img_size x img_size, deterministic; applied before augmentation."""
    return [
        transforms.Resize(img_size, transforms.InterpolationMode(interpolation)),
        transforms.CenterCrop(img_size),
    ]


def resize_to_square(img_size: int, crop_pct: float, interpolation: str) -> list[Callable]:
    """PIL image -> PIL image with a side of img_size / crop_pct, at least img_size, whatever the aspect ratio."""
    side = max(math.floor(img_size / crop_pct), img_size)
    return [transforms.Resize((side, side), transforms.InterpolationMode(interpolation))]


def pixel_transform(img_size: int, interpolation: str) -> Callable:
    """PIL image -> bytes [C, img_size, img_size], before any augmentation."""
    return transforms.Compose([*resize(img_size, interpolation), transforms.PILToTensor()])


def train_transform(
    img_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation,
    interpolation: str = 'bilinear',
    no_aug: bool = False,
    auto_augment: str | None = None,
    color_jitter: float = 0.4,
    crop_mode: str = 'rrc',
    crop_pct: float = 0.875,
    scale: Sequence[float] | None = None,
    ratio: Sequence[float] | None = None,
    crop_interpolation: str | None = None,
) -> Callable:
    """PIL image -> normalised tensor [C, img_size, img_size].

    Up to 64 px: resize if needed, pad, random crop, flip, as in every CIFAR paper. Above: timm's training crop
    `crop_mode`, of a part of the image's area in the range `scale` and an aspect ratio in the range `ratio`, flip and,
    without `auto_augment`, its colour jitter. The crop 'squash' (above 64 px) is DKS's for ImageNet (section 4.2):
    resize to a square of img_size / crop_pct whatever the aspect ratio, random crop, flip. At any size, timm's policy
    `auto_augment` follows. `no_aug` leaves only resize, centre crop and normalisation.

    `crop_interpolation`, by default `interpolation`, is that of timm's crops; 'random' chooses for each image.

    Raises:
        ValueError: timm has no such policy.
    """
    if no_aug:
        augmentation, auto_augment = Augmentation(), None
    size, large = (len(mean), img_size, img_size), img_size > SMALL
    squash = crop_mode == 'squash' and large and not no_aug
    how = dict(interpolation=interpolation, mean=mean, std=std, color_jitter=color_jitter or None)
    if large and not squash:
        how |= dict(
            no_aug=no_aug,
            train_crop_mode=crop_mode,
            scale=scale,
            ratio=ratio,
            interpolation=crop_interpolation or interpolation,
            hflip=augmentation.hflip,
            vflip=augmentation.vflip,
            re_prob=augmentation.re_prob,
            re_mode=augmentation.re_mode,
        )
        steps = [timm_transform(size, auto_augment, **how)]
    else:
        square = resize_to_square(img_size, crop_pct, interpolation) if squash else resize(img_size, interpolation)
        pad = None if squash else augmentation.pad or None
        steps = [
            *square,
            transforms.RandomCrop(img_size, pad, padding_mode=augmentation.pad_mode),
            transforms.RandomHorizontalFlip(augmentation.hflip),
            *([transforms.RandomVerticalFlip(augmentation.vflip)] if augmentation.vflip else []),
            *([timm_transform(size, auto_augment, **how, separate=True)[1]] if auto_augment else []),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        if augmentation.re_prob:
            steps.append(RandomErasing(augmentation.re_prob, mode=augmentation.re_mode, device='cpu'))
    if augmentation.cutout:
        steps.append(Cutout(augmentation.cutout))
    return transforms.Compose(steps)


def timm_transform(size: tuple[int, int, int], auto_augment: str | None, **how):
    """timm's own transform of training images; with `separate=True` its three parts: crop, policy, normalisation.

    Raises:
        ValueError: timm has no such policy.
    """
    try:
        return create_transform(size, is_training=True, auto_augment=auto_augment, **how)
    except (AssertionError, ValueError, LookupError, TypeError) as error:
        if not auto_augment:
            raise
        raise ValueError(f'--aa {auto_augment!r} is not a timm policy: {error} ({POLICIES})') from error
