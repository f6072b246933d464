"""What a network with branches returns."""

from typing import NamedTuple

import torch


class DeepOutput(NamedTuple):
    """All that one forward pass of `DeeplySupervised` gives, in train and eval mode alike.

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
