"""Setups small enough for a test."""

import torch

from dkszoo.engine import TrainConfig
from dkszoo.engine.data import open_data
from dkszoo.engine.setup import Setup, build
from dkszoo.engine.world import World

SMALL = {
    'model': 'cifar_resnet8',
    'model_kwargs': {'channels': [4, 8, 16], 'stem_chs': 4},
    'method': 'baseline',
    'train_num_samples': 64,
    'batch_size': 16,
}


def made(**settings) -> Setup:
    config, data = open_data(TrainConfig(**{**SMALL, **settings}))
    return build(config, data, World(torch.device('cpu')))
