"""What the tests of the methods share: a row of settings for every method, small networks, one batch of digits."""

import functools
from collections.abc import Callable

import numpy as np
import timm
import torch

import dkszoo
from dkszoo.data import data_facts, open_dataset
from dkszoo.tasks import METHODS

STUDENT, TEACHER = 'cifar_resnet8', 'cifar_resnet14'

# For every method: the branch design, and for each term of its own the settings that leave only this term.
SETTINGS = {
    'baseline': (None, {'ce': {}}),
    'ds': ('dks', {'ds': {'ce_weight': 0}}),
    'dks': ('dks', {'synergy': {'ce_weight': 0, 'alpha': 0}}),
    'kd': (None, {'kd': {'ce_weight': 0}}),
    'fitnet': (None, {'hint': {'ce_weight': 0}}),
    'at': (None, {'at': {'ce_weight': 0}}),
    'vid': (None, {'vid': {'ce_weight': 0}}),
    'byot': (
        'bottleneck',
        {
            'self_kd': {'ce_weight': 0, 'alpha': 0, 'self_feature_weight': 0},
            'self_feature': {'ce_weight': 0, 'alpha': 0, 'self_kd_weight': 0},
        },
    ),
    'dskd': (
        'mirror',
        {'kd': {'ce_weight': 0, 'feature_weight': 0}, 'feature': {'ce_weight': 0, 'kd_weight': 0}},
    ),
}


@functools.cache
def digits(size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """The first digits, normalised [B, 1, 32, 32], and their labels."""
    data, facts = open_dataset('digits', None, 'train'), data_facts('digits')
    images, labels = zip(*(data[i] for i in range(size)), strict=True)
    pixels = torch.from_numpy(np.stack([np.asarray(image, dtype=np.float32) for image in images]))[:, None]
    return (pixels / 255 - facts.mean[0]) / facts.std[0], torch.tensor(labels)


def network(design: str | None, seed: int = 0, **kwargs) -> torch.nn.Module:
    """A student for the digits, with branches if a design is named."""
    torch.manual_seed(seed)
    net = timm.create_model(STUDENT, num_classes=10, in_chans=1, **kwargs)
    return net if design is None else dkszoo.attach_branches(net, design)


def make_teacher(seed: int = 1) -> torch.nn.Module:
    """A teacher for the digits: not trained, but its running statistics are those of the digits."""
    torch.manual_seed(seed)
    model = timm.create_model(TEACHER, num_classes=10, in_chans=1)
    with torch.no_grad():
        for _ in range(3):
            model(digits()[0])
    return model.eval()


def make_task(method: str, criterion: Callable | None = None, **settings) -> dkszoo.DeepSupervisionTask:
    """The method on its own design, with a teacher where it needs one; always the same initial weights."""
    teacher = make_teacher() if METHODS[method].uses_teacher else None
    net = network(SETTINGS[method][0])
    torch.manual_seed(2)  # the terms' projections
    return dkszoo.DeepSupervisionTask(net, method, criterion, teacher, **settings)


def train(task: dkszoo.DeepSupervisionTask, steps: int, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Steps on the one batch of digits; the terms' values before each."""
    history = []
    task.train()
    for _ in range(steps):
        result = task(*digits())
        optimizer.zero_grad()
        result['loss'].backward()
        optimizer.step()
        history.append({key: value.item() for key, value in result.items() if key != 'output'})
    return history
