"""scikit-learn's 1,797 handwritten digits as a data set of 32x32 gray images."""

import functools

import numpy as np
from PIL import Image

from .images import ArrayImages
from .splits import split_indices


def open_digits(train: bool) -> ArrayImages:
    """Handwritten digits of the UCI repository (optical recognition), 8x8 with 17 gray levels, resized to 32x32.

    The test split is fixed: a fifth of the images, stratified by class.

    Args:
        train: The training split (1,438 images), else the test split (359).

    Raises:
        ValueError: scikit-learn is not installed.
    """
    images, targets = read_digits()
    kept, held = split_indices(len(targets), targets, 0.2)
    indices = kept if train else held
    return ArrayImages(images[indices], targets[indices], [str(i) for i in range(10)])


@functools.cache
def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """All images, resized, and the class of each; read once for both splits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("data set digits needs scikit-learn (pip install 'dkszoo[demo]')") from error
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    resized = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(resized), digits.target
