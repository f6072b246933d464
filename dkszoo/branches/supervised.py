"""The module that owns a backbone and its branches."""

from collections.abc import Sequence

import torch
from timm.models import group_parameters
from timm.optim import auto_group_layers
from timm.utils import unwrap_model
from torch import nn

from .branch import classifiers
from .output import DeepOutput, to_map


class DeeplySupervised(nn.Module):
    """A backbone with branches, for training only.

    `forward` always returns a `DeepOutput`; plain inference is `net.backbone(x)`.

    Args:
        backbone: A timm-style classifier; it is held, not copied, and keeps its own state keys.
        branches: One module per tap: map [B, C, H, W] -> (features [B, C, H, W], logits [B, K]).
        taps: `feature_info` indices where the branches leave, ascending.
        design: The design of the branches, a name or plain data, for records.

    Raises:
        ValueError: Not one tap per branch, or taps that are not ascending.
    """

    def __init__(
        self,
        backbone: nn.Module,
        branches: Sequence[nn.Module] = (),
        taps: Sequence[int] = (),
        design: str | dict | None = None,
    ):
        super().__init__()
        if len(branches) != len(taps) or list(taps) != sorted(set(taps)):
            raise ValueError(f'each branch needs a tap of its own, ascending; got {len(branches)} for taps {taps}')
        self.backbone = backbone
        self.branches = nn.ModuleList(branches)
        self.taps = tuple(taps)
        self.design = design
        self.training = backbone.training  # new branches are made in this mode, too

    def forward(self, x: torch.Tensor) -> DeepOutput:
        """Images [B, C, H, W] -> `DeepOutput`. The backbone runs once."""
        return self.forward_stages(x)[0]

    def forward_stages(
        self, x: torch.Tensor, indices: Sequence[int] = ()
    ) -> tuple[DeepOutput, tuple[torch.Tensor, ...]]:
        """As `forward`, with the maps of the stages `indices` (of `feature_info`), tapped or not.

        Raises:
            ValueError: The backbone returns several logits.
        """
        wanted = sorted({*self.taps, *indices})
        if wanted:
            # Hiera stops at the deepest requested stage by default.
            final, maps = self.backbone.forward_intermediates(x, indices=wanted, stop_early=False)
        else:
            final, maps = self.backbone.forward_features(x), ()
        maps = dict(zip(wanted, maps, strict=True))
        stages = [maps[tap] for tap in self.taps]
        logits = self.backbone.forward_head(final)
        if isinstance(logits, tuple | list):
            raise ValueError(
                f'{type(self.backbone).__name__} returns several logits in training, the method needs one '
                '(set_distilled_training(False))'
            )
        branch_outputs = [branch(stage) for branch, stage in zip(self.branches, stages, strict=True)]
        output = DeepOutput(
            logits=logits,
            branch_logits=tuple(branch_logits for _, branch_logits in branch_outputs),
            features=to_map(final, stages[-1] if stages else None, self.backbone),
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
        """Names of the parameters that backbone and branches exempt from weight decay."""
        parts = {'backbone': self.backbone, **{f'branches.{i}': branch for i, branch in enumerate(self.branches)}}
        exempt = {at: part.no_weight_decay() for at, part in parts.items() if hasattr(part, 'no_weight_decay')}
        return {f'{at}.{name}' for at, names in exempt.items() for name in names}

    def classifiers(self) -> list[nn.Module]:
        """The last linear layers of all heads, main head first."""
        return [head for model in (self.backbone, *self.branches) for head in classifiers(model)]

    def group_matcher(self, coarse: bool = False):
        """The backbone's layer groups; branches belong to the last, with the head.

        The few timm backbones that define no groups are grouped as timm does it, by the order of their layers.
        """
        if hasattr(self.backbone, 'group_matcher'):
            groups = group_parameters(self.backbone, self.backbone.group_matcher(coarse=coarse), reverse=True)
        else:
            groups = auto_group_layers(self.backbone)
        top = max(groups.values(), default=0)
        return lambda name: groups.get(name.removeprefix('backbone.'), top) if name.startswith('backbone.') else top

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of backbone and branches in the backward pass.

        Raises:
            ValueError: The backbone does not support it.
        """
        try:
            self.backbone.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError) as error:  # timm's networks without it assert
            raise ValueError(f'{type(self.backbone).__name__} has no gradient checkpointing (leave it out)') from error
        for branch in self.branches:
            if hasattr(branch, 'set_grad_checkpointing'):
                branch.set_grad_checkpointing(enable)


def strip(net: nn.Module) -> nn.Module:
    """Remove the branches: returns the backbone of a `DeeplySupervised`, not a copy; a plain network is returned as is.

    `net` may be wrapped (DDP, `torch.compile`, an average), or be a task.

    Raises:
        ValueError: The network with branches is part of another module.
    """
    inner = unwrap_model(net)
    inner = unwrap_model(inner.get_net()) if hasattr(inner, 'get_net') else inner
    if isinstance(inner, DeeplySupervised):
        return inner.backbone
    if any(isinstance(part, DeeplySupervised) for part in net.modules()):
        raise ValueError(f'{type(net).__name__} has a network with branches inside (strip that)')
    return net
