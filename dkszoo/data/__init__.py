"""Data sets, splits and the sample stream."""

from .datasets import View, class_names, class_targets, open_dataset
from .facts import DataFacts, data_facts
from .splits import split_indices
from .stream import StreamSampler, mix, stream_loader
from .transforms import train_transform

__all__ = [
    'DataFacts',
    'StreamSampler',
    'View',
    'class_names',
    'class_targets',
    'data_facts',
    'mix',
    'open_dataset',
    'split_indices',
    'stream_loader',
    'train_transform',
]
