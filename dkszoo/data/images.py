"""Images of one size, held as an array."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch.utils.data import Dataset


def how_to_fetch(kind: str, folder: str) -> str:
    """Advice for a missing file: the Python call that downloads torchvision's data set `kind` into a folder."""
    return f'another --data-dir, or fetch it: torchvision.datasets.{kind}({folder!r}, download=True)'


class ArrayImages(Dataset):
    """A data set of images of the same size in memory; `data_set[index]` is (PIL image, class).

    Args:
        images: uint8, [N, H, W] gray or [N, H, W, 3].
        targets: Class of each image.
        classes: Class names.
    """

    def __init__(self, images: np.ndarray, targets: Sequence[int], classes: Sequence[str]):
        self.images = images
        self.targets = [int(target) for target in targets]
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), self.targets[index]
