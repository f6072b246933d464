"""Inspecting a backbone without touching it.

Everything is run on a copy whose parameters and buffers are empty tensors on the meta device. So nothing changes in the
backbone (parameters, running statistics, mode, hooks, random generators), no tensor value is read, and the results are
the same for a network that has no values yet.
"""

import copy
import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn

from .stages import OwnStages, own_stages
from .taps import feature_list
from .trace import Trace

HOOKS = ('_forward_pre_hooks', '_forward_hooks', '_backward_pre_hooks', '_backward_hooks')


def skeleton(module: nn.Module, device: str | None = 'meta') -> nn.Module:
    """Copy a network's structure, without its hooks.

    Args:
        module: The network; not changed.
        device: 'meta' for parameters and buffers without values, None to share the tensors of `module`.
    """
    memo = {}
    for tensor in (*module.parameters(), *module.buffers()):
        memo[id(tensor)] = tensor if device is None else torch.empty_like(tensor, device=device)
        if isinstance(tensor, nn.Parameter) and device is not None:
            memo[id(tensor)] = nn.Parameter(memo[id(tensor)], requires_grad=tensor.requires_grad)
    for m in module.modules():
        for value in vars(m).values():  # LeViT caches attention biases in a dict, pruned layers have a computed weight
            for t in value.values() if isinstance(value, dict) else (value,):
                if isinstance(t, torch.Tensor) and not t.is_leaf:  # deepcopy rejects it
                    memo[id(t)] = t.detach().to(device or t.device)
    twin = copy.deepcopy(module, memo)
    for m in twin.modules():
        for hooks in HOOKS:
            getattr(m, hooks).clear()
    return twin


def front_modules(model: nn.Module, tap: str) -> list[str]:
    """Names of the tap's module and of all modules registered before it: the part of the network up to the tap."""
    names, parent = [], model
    parts = tap.split('.')
    for depth, part in enumerate(parts):
        for name, child in parent.named_children():
            if name == part:
                parent = child
                break
            names.append('.'.join([*parts[:depth], name]))
    return [*names, tap]


class Passage(nn.Identity):
    """Stands in for a removed stage."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Nothing to recompute; some timm networks call this on each of their stages."""


def open_front(model: nn.Module, tap: str) -> None:
    """Make a model start at a tap: the modules up to it pass their input through."""
    for name in front_modules(model, tap):
        # An empty Sequential keeps code working that iterates over the blocks.
        empty = nn.Sequential if isinstance(model.get_submodule(name), nn.Sequential) else Passage
        model.set_submodule(name, empty())


class Probe:
    """What branches need to know about a backbone.

    Args:
        backbone: A timm-style classifier.
        img_size: Side of images that it takes, if known; tried after the usual ones.

    Attributes:
        info: Its stages, see `feature_list`.

    Raises:
        ValueError: It cannot carry branches (see `feature_list`), or drops patches in training.
    """

    def __init__(self, backbone: nn.Module, img_size: int | None = None):
        if getattr(getattr(backbone, 'patch_drop', None), 'prob', 0) > 0:  # timm's maps are wrong then
            raise ValueError('patches are dropped in training, which leaves no maps (make it without patch_drop_rate)')
        self.backbone, self.img_size = backbone, img_size
        self.info = feature_list(backbone)
        self.table: dict = {}
        self.failure: Exception | None = None

    @cached_property
    def own(self) -> OwnStages:
        """How to make stages of the backbone's own kind; raises as `own_stages` does."""
        return own_stages(self.backbone)

    def input_sizes(self) -> Iterator[tuple[int, int, int]]:
        """Input sizes (C, H, W) that the network may accept, likeliest first."""
        cfg = getattr(self.backbone, 'pretrained_cfg', None) or {}
        chans, *size = cfg.get('input_size') or (3, 224, 224)
        own = getattr(getattr(self.backbone, 'patch_embed', None), 'img_size', None)
        sizes = [tuple(own) if isinstance(own, tuple | list) else None, tuple(size), (224, 224), (32, 32)]
        sizes += [(side, side) for side in range(64, 513, 32)]  # some are built for a size that they do not tell
        sizes.append(self.img_size and (self.img_size, self.img_size))
        convs = (m.in_channels for m in self.backbone.modules() if isinstance(m, nn.Conv2d))
        channels = [getattr(self.backbone, 'in_chans', None), chans, next(convs, None)]
        yield from dict.fromkeys((c, *s) for s in sizes if s for c in channels if isinstance(c, int))

    @cached_property
    def record(self) -> 'Record':
        """One evaluation of the whole network.

        Raises:
            ValueError: The network cannot be run without values.
        """
        if self.failure is None:
            for size in self.input_sizes():
                try:
                    return Record(skeleton(self.backbone).eval(), size, self.table)
                except Exception as error:  # a foreign forward can raise anything
                    self.failure = self.failure or error
        reason = str(self.failure).rstrip('.') or type(self.failure).__name__
        if not (getattr(self.backbone, 'pretrained_cfg', None) or {}).get('input_size'):
            reason += "; if it takes one size of images only, set its pretrained_cfg = {'input_size': (C, H, W)}"
        raise ValueError(f'it cannot be run without values: {reason}')

    @property
    def cannot_run(self) -> bool:
        """Whether running the network was tried in vain."""
        return self.failure is not None and 'record' not in vars(self)

    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of every stage, for the input size the network was made for."""
        return [tuple(tap.shape[-2:]) for tap in self.record.taps]

    def halvings(self, start: int, end: int) -> int:
        """Down-samplings by 2 between two stages, whatever the rounding of odd sizes."""
        sizes = self.sizes()
        return count_halvings(sizes[start], sizes[end])

    def following(self, tap: int) -> list[tuple[int, int]]:
        """(channels, down-samplings before it) of each resolution after a tap; without one, the last stage's, 0."""
        steps, at, last = [], tap, len(self.info) - 1
        for i in range(tap + 1, last + 1):
            deepest = i == last or self.halvings(i, i + 1) > 0
            if deepest and (down := self.halvings(at, i)) > 0:
                steps.append((self.info[i]['num_chs'], down))
                at = i
        return steps or [(self.info[last]['num_chs'], 0)]

    def rerun(self, tap: int) -> 'Rerun':
        """Find how the rest of the network can be run again from a tap.

        A copy opened at the tap (see `open_front`) is run on it. It is accepted if it computes exactly what the whole
        network computes after the tap (the same operations on the same parameters, with the same data flow) and does
        not modify the tap, which others read too.

        Raises:
            ValueError: The rest cannot be run from there.
        """
        name = self.info[tap]['module']
        source = self.record.sources[tap]
        for layout, key in source.items():
            twin = skeleton(self.backbone).eval()
            leaves = named_tensors(twin)
            start = torch.empty_like(self.record.taps[tap])
            start = start.permute(0, 2, 3, 1).contiguous() if layout == 'NHWC' else start
            try:
                open_front(twin, name)
                trace = Trace(self.table, leaves, {key: start})
                version = start._version
                with torch.no_grad(), trace:
                    logits = twin.forward_head(twin.forward_features(start))
            except Exception:  # a foreign forward can raise anything on unexpected input
                continue
            if (
                isinstance(logits, torch.Tensor)
                and trace.key(logits) == self.record.logits
                and start._version == version
            ):
                return Rerun(layout, trace.touched(leaves))
        raise ValueError(f'what follows {name!r} cannot be run again from there')


class Record:
    """One evaluation of a network without values: its taps, and how they were computed.

    Args:
        model: A skeleton.
        size: (C, H, W) of the input.
        table: Numbers of all computations so far, see `Trace`; grows.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int, int], table: dict):
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        image = torch.empty(1, *size, device='meta', dtype=dtype)
        trace = Trace(table, named_tensors(model), {table.setdefault('image', len(table)): image})
        with torch.no_grad(), trace:
            final, self.taps = model.forward_intermediates(image)
            logits = model.forward_head(final)
        self.input_size = size
        if isinstance(logits, torch.Tensor) and logits.ndim != 2:
            raise ValueError(f'its logits are {tuple(logits.shape)}, expected (1, classes) (give it a global pool)')
        self.logits = trace.key(logits)
        self.sources = [trace.sources(tap) for tap in self.taps]


class Rerun(NamedTuple):
    """How the rest of a network is run from a tap.

    Attributes:
        layout: 'NCHW' or 'NHWC', the input of the stage after the tap.
        touched: Names of the parameters and buffers that are used.
    """

    layout: str
    touched: set[str]


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


def count_halvings(size: tuple[int, int], smaller: tuple[int, int]) -> int:
    """How many times a map was halved, by its longer side; negative if it grew."""
    return round(math.log2(max(size) / max(smaller)))
