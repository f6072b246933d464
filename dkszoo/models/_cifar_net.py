"""Base class of the CIFAR-size networks: classifier, taps and the rest of timm's model interface.

A family derives from `CifarNet`. Its constructor sets `in_chans` and `stage_depths`, makes the stem, calls
`_init_stages`, makes the last norm, if any, and calls `_init_head`. The methods to implement are marked below; a family
with a last norm also has `_norm_keys`, `make_norm` and `_drop_norm`, and one whose stem is not `conv1` and `bn1` has
`_stem_keys`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import checkpoint_seq
from torch import nn

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)


def cifar_cfg(**kwargs) -> dict:
    """The pretrained_cfg of an untagged CIFAR-size network: 3x32x32, 100 classes, RepDistiller's mean and std."""
    return {
        'url': '',
        'num_classes': 100,
        'input_size': (3, 32, 32),
        'pool_size': (8, 8),
        'crop_pct': 1.0,
        'interpolation': 'bilinear',
        'mean': CIFAR100_MEAN,
        'std': CIFAR100_STD,
        'first_conv': 'conv1',
        'classifier': 'fc',
        'license': 'apache-2.0',
        **kwargs,
    }


def init_convs(module: nn.Module) -> None:
    """Initialise convolutions as most public CIFAR code does: normal with variance 2 / (k k out_chs), biases 0."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
            if m.bias is not None:
                nn.init.zeros_(m.bias)


class CifarNet(nn.Module):
    """Base of CIFAR-size networks with three to five stages, `layer1` to `layer5`; missing ones are None.

    `feature_info` lists exactly the stages, shallow to deep, so `stage_j(tap_{j-1}) == tap_j` holds for any two
    neighbours. `stage_depths` holds the number of blocks of each (a tuple for a stage of several rows).
    """

    # Patterns of the parameters of stem and `forward_norm` (None if it has none), for `group_matcher`.
    _stem_keys = r'^conv1|^bn1'
    _norm_keys = None

    def _dd(self) -> dict:
        """Device and dtype of the parameters, for new modules."""
        parameter = next(self.parameters())
        return dict(device=parameter.device, dtype=parameter.dtype)

    def _init_stages(self, in_chs: int, reductions: Sequence[int]) -> int:
        """Make the stages of `stage_depths` and their `feature_info`; returns the output channels."""
        self.feature_info = []
        for i, (depth, reduction) in enumerate(zip(self.stage_depths, reductions, strict=True)):
            stage, in_chs = self.make_stage(i, in_chs, depth)
            self.add_module(f'layer{i + 1}', stage)
            self.feature_info.append(dict(num_chs=in_chs, reduction=reduction, module=f'layer{i + 1}'))
        for missing in range(len(self.feature_info) + 1, 6):
            setattr(self, f'layer{missing}', None)
        return in_chs

    def _init_head(self, num_features: int, num_classes: int, global_pool: str, drop_rate: float) -> None:
        self.num_features = num_features
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        if num_features != self.feature_info[-1]['num_chs']:
            self.feature_info[-1]['num_chs_norm'] = num_features  # of timm's features with norm=True
        self.global_pool, self.fc = create_classifier(num_features, num_classes, pool_type=global_pool, **self._dd())
        self.head_hidden_size = num_features * self.global_pool.feat_mult()

    # -- to be implemented by a family -----------------------------------------------------------------------------

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        """Everything before the first stage."""
        raise NotImplementedError

    def forward_norm(self, x: torch.Tensor) -> torch.Tensor:
        """Everything between the last stage and the pool; nothing by default."""
        return x

    def make_stage(self, index: int, in_chs: int, depth, width: float = 1.0) -> tuple[nn.Module, int]:
        """Make a new stage like number `index` of this network.

        Args:
            index: The stage to repeat; 0 is the shallowest.
            in_chs: Input channels.
            depth: Number of blocks, as in `stage_depths` (a tuple for a stage of several rows).
            width: Factor on the stage's own width (for DenseNets: on the growth rate).

        Returns:
            The initialised module and its output channels.
        """
        raise NotImplementedError

    def make_norm(self, in_chs: int) -> tuple[nn.Module, int]:
        """Make a new module like `forward_norm` for `in_chs` channels; returns it and its output channels."""
        if type(self).forward_norm is not CifarNet.forward_norm:
            raise NotImplementedError(f'{type(self).__name__} has a forward_norm and needs a make_norm like it')
        return nn.Identity(), in_chs

    def _take_indices(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        """Absolute stage indices for timm's `indices` (None: all, int: the last n) and the deepest of them."""
        total = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            indices = range(-(total if indices is None else indices), 0)
        take = [i + total if i < 0 else i for i in indices]
        if not take or min(take) < 0 or max(take) >= total:
            raise ValueError(f'indices must name some of the {total} stages 0 to {total - 1}, got {list(indices)}')
        return take, max(take)

    # -- timm's interface ------------------------------------------------------------------------------------------

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups for layer-wise learning-rate decay: the stem, then each stage or block."""
        blocks = [(r'^layer(\d+)' if coarse else r'^layer(\d+)\.(\d+)', None)]
        if self._norm_keys is not None:
            blocks.append((self._norm_keys, (99999,)))  # timm's MATCH_PREV_GROUP
        return dict(stem=self._stem_keys, blocks=blocks)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory by recomputing each block in the backward pass."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The last linear layer, or its name."""
        return 'fc' if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head with a new one for `num_classes` (0: none) and, if given, another pooling."""
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool_type, **self._dd())
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ):
        """Run the network and return the outputs of stages (see timm).

        Args:
            x: Images [B, C, H, W].
            indices: Stages to return: the last n if an int, all if None.
            norm: Apply the network's last norm, if any, to the output of the last stage.
            stop_early: Do not run past the deepest requested stage.
            output_fmt: 'NCHW'.
            intermediates_only: Return only the list.

        Returns:
            The final map before pooling (with `stop_early`, the last map computed) and the list of stage outputs, from
            shallow to deep; or only the list.

        Raises:
            ValueError: Another format, or indices that name no stage.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        take, deepest = self._take_indices(indices)
        taps = []
        x = self.forward_stem(x)
        for i, info in enumerate(self.feature_info):
            stage = getattr(self, info['module'])
            x = checkpoint_seq(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
            if i in take:
                last = i == len(self.feature_info) - 1
                taps.append(self.forward_norm(x) if norm and last else x)
            if stop_early and i == deepest:
                break
        if intermediates_only:
            return taps
        if i == len(self.feature_info) - 1:
            x = self.forward_norm(x)
        return x, taps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages and the head that the given intermediates do not need (see timm)."""
        take, deepest = self._take_indices(indices)
        for info in self.feature_info[deepest + 1 :]:
            setattr(self, info['module'], nn.Sequential())
        pruned = deepest < len(self.feature_info) - 1
        width = self.num_features
        if pruned or prune_norm:
            self._drop_norm()
            self.num_features = self.feature_info[deepest]['num_chs']
        if pruned or prune_head or self.num_features != width:
            self.reset_classifier(0, '')
        return take

    def _drop_norm(self) -> None:
        """Remove the modules of `forward_norm`; overridden by families that have some."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] -> final map; without a loop over the stages, for TorchScript."""
        x = self.forward_stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq([getattr(self, info['module']) for info in self.feature_info], x, flatten=True)
        else:
            x = self.layer3(self.layer2(self.layer1(x)))
            if self.layer4 is not None:
                x = self.layer4(x)
            if self.layer5 is not None:
                x = self.layer5(x)
        return self.forward_norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool, drop out and classify: final map [B, C, H, W] -> logits [B, K], or [B, C] with `pre_logits`."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] -> logits [B, K]."""
        return self.forward_head(self.forward_features(x))
