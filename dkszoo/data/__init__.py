"""Data sets, splits, augmentation and the sample stream."""

from .augment import Augmentation
from .datasets import (
    IMAGE_FOLDERS,
    UnreadableImage,
    View,
    check_dataset,
    class_names,
    class_targets,
    compare_classes,
    open_dataset,
    read_sample,
)
from .facts import data_facts
from .images import ArrayImages
from .memory import MemoryEvalLoader, MemoryLoader, choose_loader, is_small, read_pixels
from .noise import Flip, corrupt_labels
from .splits import balanced_subset, split_indices
from .stream import StreamSampler, mixed_seed, stream_loader
from .transforms import SMALL, pixel_transform, train_transform

__all__ = [
    'IMAGE_FOLDERS',
    'SMALL',
    'ArrayImages',
    'Augmentation',
    'Flip',
    'MemoryEvalLoader',
    'MemoryLoader',
    'StreamSampler',
    'UnreadableImage',
    'View',
    'balanced_subset',
    'check_dataset',
    'choose_loader',
    'class_names',
    'class_targets',
    'compare_classes',
    'corrupt_labels',
    'data_facts',
    'is_small',
    'mixed_seed',
    'open_dataset',
    'pixel_transform',
    'read_pixels',
    'read_sample',
    'split_indices',
    'stream_loader',
    'train_transform',
]
