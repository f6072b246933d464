"""The module that owns a backbone and its branches."""

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead
from timm.models import checkpoint_seq, group_parameters
from torch import nn

from .output import DeepOutput


class Branch(nn.Module):
    """Stages, norm, pool and classifier of one branch: tap [B, C, H, W] -> (final map, logits [B, K])."""

    def __init__(self, stages: nn.Sequential, norm: nn.Module, head: ClassifierHead):
        super().__init__()
        self.stages = stages
        self.norm = norm
        self.head = head
        self.grad_checkpointing = False

    def forward(self, tap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.grad_checkpointing:
            x = checkpoint_seq(self.stages, tap, flatten=True)
        else:
            x = self.stages(tap)
        features = self.norm(x)
        return features, self.head(features)


class DeeplySupervised(nn.Module):
    """A backbone with branches, for training only.

    `forward` always returns a `DeepOutput`; plain inference is `net.backbone(x)`.

    Args:
        backbone: A timm-style classifier; it is held, not copied, and keeps its own state keys.
        branches: One module for each tap.
        taps: `feature_info` indices where the branches leave, ascending.
        design: Name of the design the branches follow, for records.
    """

    def __init__(self, backbone: nn.Module, branches: Sequence[nn.Module] = (), taps: Sequence[int] = (), design=None):
        super().__init__()
        if len(branches) != len(taps) or list(taps) != sorted(set(taps)):
            raise ValueError(f'each branch needs a tap of its own, ascending; got {len(branches)} for taps {taps}')
        self.backbone = backbone
        self.branches = nn.ModuleList(branches)
        self.taps = tuple(taps)
        self.design = design

    def forward(self, x: torch.Tensor) -> DeepOutput:
        """Images [B, C, H, W] -> `DeepOutput`. The backbone runs once."""
        return self.forward_stages(x)[0]

    def forward_stages(
        self, x: torch.Tensor, indices: Sequence[int] = ()
    ) -> tuple[DeepOutput, tuple[torch.Tensor, ...]]:
        """`forward`, and the maps of the stages with these `feature_info` indices, tapped or not."""
        wanted = sorted({*self.taps, *indices})
        if wanted:
            final, maps = self.backbone.forward_intermediates(x, indices=wanted)
        else:
            final, maps = self.backbone.forward_features(x), ()
        maps = dict(zip(wanted, maps, strict=True))
        stages = [maps[tap] for tap in self.taps]
        logits = self.backbone.forward_head(final)
        branch_outputs = [branch(stage) for branch, stage in zip(self.branches, stages, strict=True)]
        output = DeepOutput(
            logits=logits,
            branch_logits=tuple(branch_logits for _, branch_logits in branch_outputs),
            features=final,
            branch_features=tuple(features for features, _ in branch_outputs),
            stages=tuple(stages),
        )
        return output, tuple(maps[index] for index in indices)

    @property
    def num_classes(self) -> int:
        return self.backbone.num_classes

    @property
    def pretrained_cfg(self) -> dict:
        return self.backbone.pretrained_cfg

    def no_weight_decay(self) -> set[str]:
        """The backbone's exemptions under this module's names."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, 'no_weight_decay') else ()
        return {f'backbone.{name}' for name in names}

    def group_matcher(self, coarse: bool = False):
        """The backbone's layer groups; branches belong to its last one, with the head."""
        groups = group_parameters(self.backbone, self.backbone.group_matcher(coarse=coarse), reverse=True)
        top = max(groups.values(), default=0)
        return lambda name: groups.get(name.removeprefix('backbone.'), top) if name.startswith('backbone.') else top

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of backbone and branches in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)
        for branch in self.branches:
            branch.grad_checkpointing = enable


def strip(net: nn.Module) -> nn.Module:
    """Remove the branches: the backbone of a `DeeplySupervised`, the very module; a plain network is returned as is."""
    return net.backbone if isinstance(net, DeeplySupervised) else net
