"""Loaders that keep all images as bytes on the device and transform them batch by batch."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from .augment import Augmentation, crop, draw_choices, flip, hide, normalise, pad_images
from .datasets import View
from .images import ArrayImages
from .stream import StreamSampler, mixed_seed
from .transforms import SMALL

_logger = logging.getLogger(__name__)

LIMIT = 2 * 2**30  # most bytes of images that `auto` keeps in memory
CHOICES = 2**32  # separates the seed of the epoch's random choices from those of its order and samples


def read_pixels(view: View, transform: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """Read all images of a view as bytes [N, C, H, W], and their classes [N].

    Args:
        view: The samples.
        transform: PIL image -> bytes [C, H, W], deterministic.
    """
    view = copy.copy(view)
    view.transform = transform
    images = torch.empty(len(view), *view[0][0].shape, dtype=torch.uint8)
    targets = torch.empty(len(view), dtype=torch.int64)
    for i in range(len(view)):
        images[i], targets[i] = view[i]
    return images, targets


def is_small(view: View, img_size: int, in_chans: int, pad: int = 0) -> bool:
    """Whether the images are small and fit in memory; the answer is the same on every machine."""
    return (
        isinstance(view.base, ArrayImages)
        and img_size <= SMALL
        and len(view) * in_chans * (img_size + 2 * pad) ** 2 <= LIMIT
    )


def choose_loader(
    asked: str,
    view: View,
    img_size: int,
    in_chans: int,
    augmentation: Augmentation,
    auto_augment: str | None,
) -> str:
    """Choose the loader: 'memory' or 'timm'; `asked` may also be 'auto'.

    Raises:
        ValueError: The in-memory loader was requested but does not support the settings.
    """
    reason = None
    if img_size > SMALL:
        reason = f'images of {img_size} px, it takes up to {SMALL}'
    elif auto_augment:
        reason = f'--aa {auto_augment}, which works on one image at a time'
    elif augmentation.re_prob and augmentation.re_mode != 'const':
        reason = f'--remode {augmentation.re_mode}, which works on one image at a time'
    if asked == 'memory' and reason:
        raise ValueError(f'--loader memory cannot do {reason} (use --loader timm)')
    if asked == 'auto':
        asked = 'memory' if not reason and is_small(view, img_size, in_chans, augmentation.pad) else 'timm'
        _logger.info('loader: %s', asked)
    return asked


class PixelLoader:
    """Base of the loaders of images kept as bytes on a device.

    Args:
        images: [N, C, H, W] uint8.
        targets: [N].
        mean: Channel means in [0, 1].
        std: Channel standard deviations.
        device: Device of images, targets and batches.
    """

    def __init__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ):
        self.images, self.targets = images.to(device), targets.to(device)
        # A tensor, because CUDA divides by a Python number by multiplying with its reciprocal.
        self.scale = torch.tensor(255.0, device=device)
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (mean, std))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images, self.scale, self.mean, self.std)


class MemoryLoader(PixelLoader):
    """The stream's training batches (images [B, C, S, S], targets [B]), from images in memory.

    A sample's random choices depend on (seed, epoch, index, N). The loader never waits for the device.

    Args:
        images: [N, C, S, S] uint8, before augmentation.
        targets: [N].
        sampler: The order of the samples.
        augmentation: Their augmentation.
        mean: Channel means in [0, 1].
        std: Channel standard deviations.
        device: Where everything happens.
    """

    def __init__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        sampler: StreamSampler,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ):
        super().__init__(images, targets, mean, std, device)
        self.size = images.shape[-1]
        self.images = pad_images(self.images, augmentation).contiguous()
        self.sampler, self.augmentation = sampler, augmentation

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        sampler, device = self.sampler, self.images.device
        epoch, start = sampler.epoch, sampler.start
        order = sampler.order(epoch).to(device, non_blocking=True)
        seed = mixed_seed(sampler.seed, epoch, CHOICES)
        choices = draw_choices(len(self.targets), self.size, self.augmentation, seed).to(device)
        for step in range(start, sampler.steps):
            index = order[sampler.part(step)]
            chosen = choices.of(index)
            images = crop(self.images, index, chosen.top, chosen.left, self.size)
            if self.augmentation.hflip:
                images = flip(images, chosen.hflip, -1)
            if self.augmentation.vflip:
                images = flip(images, chosen.vflip, -2)
            images = self.normalise(images)
            for box in chosen.boxes:
                images = hide(images, box)
            yield images, self.targets[index]


class MemoryEvalLoader(PixelLoader):
    """Evaluation batches (images [B, C, H, W], targets [B]) of all images in order, from images in memory.

    Args:
        images: [N, C, H, W] uint8, at the input size of the network.
        targets: [N].
        batch_size: Samples per batch.
        mean: Channel means in [0, 1].
        std: Channel standard deviations.
        device: Where everything happens.
    """

    def __init__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ):
        super().__init__(images, targets, mean, std, device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(self.targets), self.batch_size):
            batch = slice(first, first + self.batch_size)
            yield self.normalise(self.images[batch]), self.targets[batch]
