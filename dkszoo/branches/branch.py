"""Branch modules: tap [B, C, H, W] -> (final map [B, C, H, W], logits [B, K])."""

import torch
from timm.models import checkpoint_seq
from torch import nn

from .output import to_map


class Branch(nn.Module):
    """Stages, norm, and a head that pools and classifies.

    Args:
        stages: Stages or blocks after the tap, in order.
        norm: Applied between the last stage and the pool.
        head: Pool and classifier; its last linear layer is `fc`.
    """

    def __init__(self, stages: nn.Sequential, norm: nn.Module, head: nn.Module):
        super().__init__()
        self.stages = stages
        self.norm = norm
        self.head = head
        self.grad_checkpointing = False

    def forward(self, tap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.grad_checkpointing:
            blocks = [b for stage in self.stages for b in (stage if type(stage) is nn.Sequential else [stage])]
            x = checkpoint_seq(blocks, tap)
        else:
            x = self.stages(tap)
        features = self.norm(x)
        return features, self.head(features)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable


class MirrorBranch(nn.Module):
    """The part of a network after a tap: a network of the backbone's class whose front passes its input through.

    Args:
        net: That network.
        channels_last: Whether its stages take [B, H, W, C].
    """

    def __init__(self, net: nn.Module, channels_last: bool):
        super().__init__()
        self.net = net
        self.channels_last = channels_last

    def forward(self, tap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = tap.permute(0, 2, 3, 1).contiguous() if self.channels_last else tap
        final = self.net.forward_features(x)
        return to_map(final, tap, self.net), self.net.forward_head(final)

    def get_classifier(self) -> nn.Module:
        """The last linear layer, as the backbone names it."""
        return self.net.get_classifier()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.net.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        names = self.net.no_weight_decay() if hasattr(self.net, 'no_weight_decay') else ()
        return {f'net.{name}' for name in names}


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The last linear layers of a timm model or a branch: one, or two in a network with a distillation head.

    Empty for a custom branch without `get_classifier`.
    """
    found = model.get_classifier() if hasattr(model, 'get_classifier') else []
    return list(found) if isinstance(found, list | tuple | nn.ModuleList) else [found]
