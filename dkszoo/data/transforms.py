"""Transforms of training images; evaluation uses timm's own."""

from collections.abc import Callable, Sequence

from timm.data import create_transform
from torchvision import transforms

SMALL = 64


def train_transform(
    img_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    pad: int = 4,
    hflip: float = 0.5,
    interpolation: str = 'bilinear',
    no_aug: bool = False,
    pad_mode: str = 'constant',
    **timm_kwargs,
) -> Callable:
    """PIL image -> normalised tensor [C, img_size, img_size].

    Up to 64 px: resize where needed, pad, random crop, flip, as every CIFAR paper does. Above: timm's random resized
    crop and whatever `timm_kwargs` asks for.
    """
    if img_size > SMALL or no_aug or timm_kwargs.get('auto_augment'):
        size = (len(mean), img_size, img_size)
        return create_transform(
            size,
            is_training=True,
            no_aug=no_aug,
            hflip=hflip,
            interpolation=interpolation,
            mean=mean,
            std=std,
            use_prefetcher=False,
            **timm_kwargs,
        )
    steps = [
        transforms.Resize(img_size, transforms.InterpolationMode(interpolation)),
        transforms.CenterCrop(img_size),
        transforms.RandomCrop(img_size, padding=pad or None, padding_mode=pad_mode),
        transforms.RandomHorizontalFlip(hflip),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    if timm_kwargs.get('re_prob'):
        from timm.data import RandomErasing

        steps.append(RandomErasing(timm_kwargs['re_prob'], mode=timm_kwargs.get('re_mode', 'const'), device='cpu'))
    return transforms.Compose(steps)
