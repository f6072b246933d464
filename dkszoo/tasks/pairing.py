"""What terms are built from: pairs of network and teacher stages, and example outputs of both."""

from collections.abc import Sequence

import torch
from torch import nn

from dkszoo.branches import DeeplySupervised

from .teacher import Teacher, count_channels
from .terms import Batch


def stage_indices(backbone: nn.Module) -> list[int]:
    """The `feature_info` indices of a network's stages, shallow to deep, without a stem.

    The first entry is a stem if it is a single layer or has 'stem' in its name.

    Raises:
        ValueError: The network has no `feature_info`.
    """
    info = getattr(backbone, 'feature_info', None)
    if info is None or not hasattr(backbone, 'forward_intermediates'):
        raise ValueError(f'{type(backbone).__name__} does not expose its stages (use a timm classifier)')
    names = [entry['module'] for entry in (info.get_dicts() if hasattr(info, 'get_dicts') else info)]
    has_stem = len(names) > 1 and ('stem' in names[0] or is_layer(backbone.get_submodule(names[0])))
    return list(range(int(has_stem), len(names)))


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a single layer, with or without a norm and an activation."""
    layers = sum(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())
    return layers <= 1 and not isinstance(module, nn.Sequential)


def pair_stages(student: nn.Module, teacher: nn.Module) -> tuple[list[int], list[int]]:
    """Pair stages by position, as many as both networks have; returns the `feature_info` indices of each.

    The public implementations also pair by position, but count VGG's first block as a stem and its last two blocks,
    one stage here, as two stages.
    """
    own, other = stage_indices(student), stage_indices(teacher)
    count = min(len(own), len(other))
    return own[:count], other[:count]


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """The fixed image size (H, W) that a network declares; None if it declares none."""
    size = getattr(getattr(model, 'patch_embed', None), 'img_size', None)
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    if not isinstance(size, tuple | list):
        size = cfg['input_size'][-2:] if cfg.get('fixed_input_size') else None
    return None if size is None else tuple(size)


@torch.no_grad()
def example_batch(net: DeeplySupervised, teacher: Teacher | None, stages: tuple[Sequence[int], Sequence[int]]) -> Batch:
    """The outputs for one image of zeros. Changes neither the networks nor any random generator.

    Args:
        net: The network.
        teacher: Its teacher.
        stages: The paired `feature_info` indices, of the network and of the teacher.
    """
    weight = next(net.parameters())
    cfg = getattr(net.backbone, 'pretrained_cfg', None) or {}
    models = [net.backbone] if teacher is None else [net.backbone, teacher.model]
    sizes = (teacher and teacher.input_size, *map(fixed_size, models), cfg.get('input_size', (3, 32, 32))[-2:])
    sizes = list(dict.fromkeys(tuple(size) for size in sizes if size is not None))
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        for size in sizes:
            image = torch.zeros(1, count_channels(net.backbone) or 3, *size, device=weight.device, dtype=weight.dtype)
            try:
                output, maps = net.forward_stages(image, stages[0])
                return Batch(output, None, None if teacher is None else teacher(image, stages[1]), maps)
            except (RuntimeError, AssertionError):  # built for another size than its pretrained_cfg says
                if size == sizes[-1]:
                    raise
    finally:
        for module, training in modes.items():
            module.training = training
