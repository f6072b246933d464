"""A copy of what a step changes before it updates the parameters, to undo it."""

import torch
from torch import nn

from .rng import rng_state, set_rng_state


class Snapshot:
    """The buffers (running statistics), the gradients and the random generators.

    Args:
        module: Everything that trains.
        device: The module's device.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.device = device
        self.parameters, self.buffers = list(module.parameters()), list(module.buffers())
        self.copies = [torch.empty_like(buffer) for buffer in self.buffers]
        self.gradients: list[torch.Tensor | None] = []
        self.rng: dict = {}

    @torch.no_grad()
    def take(self) -> None:
        copy(self.buffers, self.copies)
        self.gradients = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        self.rng = rng_state(self.device)

    @torch.no_grad()
    def put_back(self) -> None:
        copy(self.copies, self.buffers)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        set_rng_state(self.rng, self.device)


def copy(source: list[torch.Tensor], target: list[torch.Tensor]) -> None:
    """Copy tensors into others; the lists may be empty, as transformers have no buffers."""
    if source:
        torch._foreach_copy_(target, source)
