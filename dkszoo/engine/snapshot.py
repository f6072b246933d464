"""What a step changes before it updates the parameters, to be put back."""

import torch
from torch import nn

from .rng import rng_state, set_rng_state


class Snapshot:
    """The buffers (running statistics), the gradients and the generators.

    Args:
        module: All that trains.
        device: Where it is.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.device = device
        self.parameters, self.buffers = list(module.parameters()), list(module.buffers())
        self.copies = [torch.empty_like(buffer) for buffer in self.buffers]
        self.gradients: list[torch.Tensor | None] = []
        self.rng: dict = {}

    @torch.no_grad()
    def take(self) -> None:
        torch._foreach_copy_(self.copies, self.buffers)
        self.gradients = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        self.rng = rng_state(self.device)

    @torch.no_grad()
    def put_back(self) -> None:
        torch._foreach_copy_(self.buffers, self.copies)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        set_rng_state(self.rng, self.device)
