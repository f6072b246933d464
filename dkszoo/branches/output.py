"""What a network with branches returns."""

from typing import NamedTuple

import torch
from torch import nn


class DeepOutput(NamedTuple):
    """Everything that a forward pass of `DeeplySupervised` returns, in train and eval mode alike.

    Attributes:
        logits: Main head [B, K].
        branch_logits: Branch heads, shallow to deep, each [B, K].
        features: The backbone's final map before pooling [B, C, H, W].
        branch_features: Each branch's final map before pooling [B, C, H, W].
        stages: The taps, shallow to deep, each [B, C, H, W].
    """

    logits: torch.Tensor
    branch_logits: tuple[torch.Tensor, ...]
    features: torch.Tensor
    branch_features: tuple[torch.Tensor, ...]
    stages: tuple[torch.Tensor, ...]


def to_map(final: torch.Tensor | list | tuple, tap: torch.Tensor | None, model: nn.Module) -> torch.Tensor:
    """Convert the input of a timm model's head to a map [B, C, H, W].

    Args:
        final: A map in either layout, tokens [B, N, C], pooled features [B, C], or several, of which one is taken.
        tap: A stage's output [B, C, H, W], whose aspect ratio the tokens get; None: they form a square.
        model: The model, for its number of features and of prefix tokens, which are left out.
    """
    if isinstance(final, list | tuple):
        parts = [part for part in final if isinstance(part, torch.Tensor)]
        final = next((part for part in parts if part.ndim == 4), parts[-1])
    if final.ndim == 4:
        features = getattr(model, 'num_features', None)  # a teacher may lack it: then channels come first
        return final.permute(0, 3, 1, 2) if final.shape[1] != features and final.shape[3] == features else final
    if final.ndim == 3:
        final = final[:, getattr(model, 'num_prefix_tokens', 0) :].transpose(1, 2)
        tokens = final.shape[2]
        height, width = (1, 1) if tap is None else tap.shape[-2:]
        rows = max(1, round((tokens * height / width) ** 0.5))
        return final.unflatten(2, (rows, -1) if tokens % rows == 0 else (tokens, 1))
    return final[:, :, None, None]
