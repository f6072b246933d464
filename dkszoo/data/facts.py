"""Facts about data sets: channels, size, normalisation, default augmentation. Data only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set before it is opened.

    Attributes:
        in_chans: Image channels.
        img_size: Side at which it is trained; None: the model's own.
        mean: Channel means of the training images in [0, 1]; None: the model's own.
        std: Their standard deviations.
        pad: Padding of the random crop, in pixels at `img_size`.
        hflip: Probability of the horizontal flip.
    """

    in_chans: int = 3
    img_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pad: int = 4
    hflip: float = 0.5


# Normalisation by name, as the public code has it: see --mean/--std to choose another.
CIFAR100_STATS = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))  # RepDistiller, SemCKD, mdistiller
CIFAR10_STATS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # DHM; DKS uses it for CIFAR-100 too

DATA_FACTS = {
    'digits': DataFacts(1, 32, (0.3052,), (0.3234,), pad=2, hflip=0.0),
    'torch/cifar10': DataFacts(3, 32, *CIFAR10_STATS),
    'torch/cifar100': DataFacts(3, 32, *CIFAR100_STATS),
    'torch/mnist': DataFacts(1, 32, (0.1307,), (0.3081,), pad=2, hflip=0.0),
    'torch/fashion_mnist': DataFacts(1, 32, (0.2860,), (0.3530,)),
    'torch/kmnist': DataFacts(1, 32, (0.1918,), (0.3483,), pad=2, hflip=0.0),
}


def data_facts(name: str) -> DataFacts:
    """The facts of a data set by its timm name; a data set not in the table has the defaults."""
    return DATA_FACTS.get(name.lower(), DataFacts())
