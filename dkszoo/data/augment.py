"""Augmentation of a whole batch at once, on the device of the images.

For the same random choices, each function does exactly what its torchvision or timm counterpart does to one image.
`draw_choices` draws the choices for a whole epoch, with the same probabilities.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

MIN_AREA, MAX_AREA, MIN_ASPECT, ATTEMPTS = 0.02, 1 / 3, 0.3, 10  # timm's RandomErasing


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images.

    Attributes:
        pad: Pixels added on every side before the random crop.
        pad_mode: Content of the padding: 'constant' (black) or 'reflect'.
        hflip: Probability of a horizontal flip.
        re_prob: Probability of random erasing.
        cutout: Side of the hidden square; 0: none.
        vflip: Probability of a vertical flip.
        re_mode: Content of the erased rectangle: 'const' (0, the mean colour), 'rand' (a random colour) or 'pixel' (one
            for each pixel). Only 'const' is possible for whole batches.
    """

    pad: int = 0
    pad_mode: str = 'constant'
    hflip: float = 0.0
    re_prob: float = 0.0
    cutout: int = 0
    vflip: float = 0.0
    re_mode: str = 'const'


@dataclass
class Choices:
    """The random choices for some samples.

    Attributes:
        top: [N] first row of the crop in the padded image.
        left: [N] first column.
        hflip: [N] uint8, 1 where the crop is mirrored left to right.
        vflip: [N] uint8, 1 where it is mirrored top to bottom.
        boxes: Rectangles to hide, each four [N] tensors: first row, end row (exclusive), first column, end column.
    """

    top: torch.Tensor
    left: torch.Tensor
    hflip: torch.Tensor
    vflip: torch.Tensor
    boxes: list[tuple[torch.Tensor, ...]]

    def to(self, device: torch.device) -> 'Choices':
        def move(tensor):
            return tensor.to(device, non_blocking=True)

        boxes = [tuple(move(edge) for edge in box) for box in self.boxes]
        return Choices(*map(move, (self.top, self.left, self.hflip, self.vflip)), boxes)

    def of(self, index: torch.Tensor) -> 'Choices':
        """The choices for the samples `index` [B]."""
        boxes = [tuple(edge[index] for edge in box) for box in self.boxes]
        return Choices(self.top[index], self.left[index], self.hflip[index], self.vflip[index], boxes)


def draw_choices(total: int, size: int, augmentation: Augmentation, seed: int) -> Choices:
    """Draw choices for `total` samples of size x size pixels; a sample's depend on `seed`, `total` and its index."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    span = 2 * augmentation.pad + 1
    top, left = (uniform(2, total) * span).long()
    hflip = (uniform(total) < augmentation.hflip).to(torch.uint8)
    boxes = []
    if augmentation.re_prob:
        boxes.append(draw_erasing(uniform, total, size, augmentation.re_prob))
    if augmentation.cutout:
        first = (uniform(2, total) * size).long() - augmentation.cutout // 2
        boxes.append((first[0], first[0] + augmentation.cutout, first[1], first[1] + augmentation.cutout))
    # Drawn last, so that the other choices do not depend on it.
    vflip = (uniform(total) < augmentation.vflip).to(torch.uint8)
    return Choices(top, left, hflip, vflip, boxes)


def draw_erasing(uniform, total: int, size: int, probability: float) -> tuple[torch.Tensor, ...]:
    """Rectangles of random erasing (Zhong et al., arXiv:1708.04896), as timm draws them: the first of ten that fits."""
    area = (MIN_AREA + uniform(ATTEMPTS, total) * (MAX_AREA - MIN_AREA)) * size * size
    aspect = torch.exp((2 * uniform(ATTEMPTS, total) - 1) * math.log(1 / MIN_ASPECT))
    height, width = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (height < size) & (width < size)
    first = fits.to(torch.uint8).argmax(dim=0, keepdim=True)
    erase = (uniform(total) < probability) & fits.any(dim=0)
    height, width = (side.gather(0, first)[0] * erase for side in (height, width))
    top, left = (uniform(total) * (size - height + 1)).long(), (uniform(total) * (size - width + 1)).long()
    return top, top + height.long(), left, left + width.long()


def pad_images(images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Pad images [N, C, H, W] for the random crop.

    Raises:
        ValueError: The reflection would be wider than the image.
    """
    if not augmentation.pad:
        return images
    if augmentation.pad_mode == 'constant':
        return functional.pad(images, (augmentation.pad,) * 4)
    side = images.shape[-1]
    if augmentation.pad >= side:
        raise ValueError(f'images of {side} px are too small to reflect {augmentation.pad} (choose a smaller --pad)')
    inner = torch.arange(-augmentation.pad, side + augmentation.pad, device=images.device).abs()
    nearest = (side - 1) - ((side - 1) - inner).abs()  # ... 2 1 [0 1 2 ...]: the edge is not repeated
    return images[:, :, nearest][..., nearest]


def crop(padded: torch.Tensor, index: torch.Tensor, top: torch.Tensor, left: torch.Tensor, size: int) -> torch.Tensor:
    """Crops [B, C, size, size] of the images `index` [B] of `padded` [N, C, H, W], which must be contiguous."""
    _, chans, height, width = padded.shape
    device = padded.device
    # Every run of `size` bytes is a possible row of a crop: one gather of rows selects images and crops.
    runs = padded.view(-1).unfold(0, size, 1)
    plane = torch.arange(chans, device=device)[:, None] * (height * width)
    row = torch.arange(size, device=device) * width
    starts = index * (chans * height * width) + top * width + left
    starts = starts[:, None, None] + plane + row
    return runs.index_select(0, starts.view(-1)).view(-1, chans, size, size)


def flip(images: torch.Tensor, where: torch.Tensor, dim: int) -> torch.Tensor:
    """Images [B, C, H, W] uint8, mirrored along `dim` (-1: left to right) where `where` [B] is 1."""
    # On CPU this is several times as fast as torch.where with a mask [B, 1, 1, 1].
    difference = images ^ images.flip(dim)
    return images ^ difference.mul_(where.view(-1, 1, 1, 1))


def normalise(images: torch.Tensor, scale: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(images / scale - mean) / std in float32, bit-identical to ToTensor and Normalize; mean and std [C, 1, 1]."""
    return images.float().div_(scale).sub_(mean).div_(std)


def hide(images: torch.Tensor, box: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Set the box of each image of [B, C, H, W] to 0, in place."""
    top, bottom, left, right = (edge[:, None] for edge in box)
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return images.masked_fill_(inside[:, None], 0.0)
