"""The base class of terms, and their inputs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from dkszoo.branches import DeeplySupervised, DeepOutput

from ..teacher import TeacherOutput


class Batch(NamedTuple):
    """The inputs of a term.

    Attributes:
        output: The network's outputs.
        target: Labels [B], or probabilities [B, K].
        teacher: The teacher's outputs; None without one.
        stages: Maps [B, C, H, W] of the network's stages, shallow to deep, paired by position with `teacher.stages`;
            empty unless a term uses them.
        criterion: The loss on labels, (logits [B, K], target) -> scalar.
    """

    output: DeepOutput
    target: torch.Tensor | None
    teacher: TeacherOutput | None
    stages: tuple[torch.Tensor, ...] = ()
    criterion: Callable | None = None


class Context(NamedTuple):
    """What a term is built for.

    Attributes:
        net: The network.
        example: The outputs for one image, to read shapes from; None unless a term uses it.
    """

    net: DeeplySupervised
    example: Batch | None


class Term(nn.Module):
    """Base of the terms: one weighted loss each.

    `settings` maps the fields of `LossSettings` that the term reads to their defaults. A term with parameters
    (projections, variances) creates them in its constructor; they are trained and saved with the branches.

    Args:
        context: The network, and example outputs if the term uses them.
        settings: The term's own settings, defaults filled in.
    """

    settings: dict = {}
    uses_branches = False
    teaches_main = True  # the main head's classifier learns from it
    uses_softmax = False  # compares distributions over the classes, which are constant for a single class
    uses_teacher = False
    uses_stages = False  # reads Batch.stages
    uses_example = False  # reads Context.example

    def __init__(self, context: Context, settings: dict):
        super().__init__()

    @classmethod
    def needs_branches(cls, settings: dict) -> bool:
        """Whether it reads any branch under these settings."""
        return cls.uses_branches

    @classmethod
    def reaches_main(cls, settings: dict) -> bool:
        """Whether the main head's classifier learns from it under these settings."""
        return cls.teaches_main

    def set_progress(self, done: float) -> None:
        """Called before every epoch with the fraction of the training that is done, in [0, 1)."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """The weighted loss, a float32 (or float64) scalar."""
        raise NotImplementedError


def promote(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision to float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def zero_like(logits: torch.Tensor) -> torch.Tensor:
    """A loss of zero, on the device of the logits."""
    return promote(logits).new_zeros(())


def check_maps(maps: dict[str, torch.Tensor]) -> None:
    """Raise a ValueError unless all tensors are maps (B, C, H, W); the keys name them in the message."""
    for name, tensor in maps.items():
        if tensor is None or tensor.ndim != 4:
            shape = 'none' if tensor is None else tuple(tensor.shape)
            use = 'a convolutional network with forward_features and forward_head'
            raise ValueError(f'expected {name} of shape (B, C, H, W), got {shape} (use {use})')
