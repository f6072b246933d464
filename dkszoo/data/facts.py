"""Facts about data sets: channels, sizes, normalisation, default augmentation."""

from dataclasses import dataclass

# Normalisation, (mean, std) of the channels in [0, 1], by the name used in the docs; --mean and --std override it.
# Those named c10... are statistics of CIFAR-10, even if used for other data.
NORMALISATION = {
    'c100': (  # RepDistiller, SemCKD, mdistiller, HSAKD, Self-KD-Lib
        (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761),
    ),
    'c10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # c10b, rounded; the default for CIFAR-10
    'c10u8': (  # DKS, given in gray levels; also used for CIFAR-100
        (125.3 / 255, 123.0 / 255, 113.9 / 255),
        (63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    'c10b': (  # DHM, also for CIFAR-100
        (0.49139968, 0.48215827, 0.44653124),
        (0.24703233, 0.24348505, 0.26158768),
    ),
    'c10c': ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # BYOT: std is the mean of the images' deviations
    'mnist': ((0.1307,), (0.3081,)),
    'fashion_mnist': ((0.2860,), (0.3530,)),
    'kmnist': ((0.1918,), (0.3483,)),
    'digits': ((0.3052,), (0.3234,)),
}


@dataclass(frozen=True)
class DataFacts:
    """Facts about a data set, known before it is opened.

    Attributes:
        in_chans: Image channels.
        img_size: Side of the training images; None: the model's own.
        mean: Channel means of the training images in [0, 1]; None: the model's own.
        std: Their channel standard deviations; None: the model's own.
        pad: Padding of the random crop, in pixels at `img_size`.
        hflip: Probability of the horizontal flip.
        num_classes: Number of classes; None: not known before opening.
        num_train: Number of training images, or None.
        num_test: Number of test images, or None.
    """

    in_chans: int = 3
    img_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pad: int = 4
    hflip: float = 0.5
    num_classes: int | None = None
    num_train: int | None = None
    num_test: int | None = None


def characters(name: str, num_train: int, num_test: int) -> DataFacts:
    """Facts of ten gray characters, without flips, which could turn one into another."""
    return DataFacts(1, 32, *NORMALISATION[name], 2, 0.0, 10, num_train, num_test)


DATA_FACTS = {
    'digits': characters('digits', 1438, 359),
    'torch/cifar10': DataFacts(3, 32, *NORMALISATION['c10'], 4, 0.5, 10, 50_000, 10_000),
    'torch/cifar100': DataFacts(3, 32, *NORMALISATION['c100'], 4, 0.5, 100, 50_000, 10_000),
    'torch/mnist': characters('mnist', 60_000, 10_000),
    'torch/fashion_mnist': DataFacts(1, 32, *NORMALISATION['fashion_mnist'], 4, 0.5, 10, 60_000, 10_000),
    'torch/kmnist': characters('kmnist', 60_000, 10_000),
}


def data_facts(name: str) -> DataFacts:
    """Facts of a data set by its timm name; the defaults for a data set not in the table."""
    return DATA_FACTS.get(name.lower(), DataFacts())
