"""Design `mirror`: a second, freshly initialised copy of the rest of the main path (DSKD, section 3.1)."""

import copy
from collections.abc import Sequence

import timm
import torch
from timm.layers import unfreeze_batch_norm_2d
from torch import nn

from .branch import MirrorBranch, classifiers
from .probe import Probe, open_front, skeleton


def build_mirror(probe: Probe, tap: int, num_classes: int) -> MirrorBranch:
    """Build the rest of the backbone after a tap, with weights of its own.

    The branch is a copy of the backbone, settings (stochastic depth, dropout, ...) included, without the part before
    the tap. Its values come from a second network of the same name, so that it is initialised as the model's author
    intended: zeroed last norms, layer scales, position tables. Tensors that this network lacks or has in another shape
    (a backbone built with other arguments) are initialised by their module's `reset_parameters`.

    Raises:
        ValueError: See `check_mirror`.
    """
    backbone = probe.backbone
    rerun = probe.rerun(tap)
    net = skeleton(backbone, device=None)
    open_front(net, probe.info[tap]['module'])
    net = copy.deepcopy(net)  # copies tensors only now, and only the remaining ones
    with next(backbone.parameters()).device:
        net = unfreeze_batch_norm_2d(net)  # fresh statistics, if frozen, would normalise nothing
    if num_classes != backbone.num_classes:
        net.reset_classifier(num_classes)
    start_afresh(net, donor(backbone, num_classes), rerun.touched)
    # Branches of a frozen backbone still train. Unused parameters must not require gradients, or DDP waits for them.
    trained = {id(p) for head in classifiers(net) for p in head.parameters()}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in rerun.touched or id(parameter) in trained)
    return MirrorBranch(net, rerun.layout == 'NHWC').train(backbone.training)


def check_mirror(probe: Probe, taps: Sequence[int]) -> None:
    """Check that the rest of the backbone can be rebuilt from these taps; draws no random numbers.

    Raises:
        ValueError: It cannot be run again from a tap, or a parameter cannot be re-initialised.
    """
    empty = skeleton(probe.backbone)
    reruns = {tap: probe.rerun(tap) for tap in taps}
    source = donor(empty, empty.num_classes)
    for tap, rerun in reruns.items():
        net = skeleton(empty)
        open_front(net, probe.info[tap]['module'])
        with torch.device('meta'):
            net = unfreeze_batch_norm_2d(net)
        start_afresh(net, source, rerun.touched)


def donor(backbone: nn.Module, num_classes: int) -> nn.Module | None:
    """A fresh network of the same name; None if timm cannot create one of the same class."""
    name = (getattr(backbone, 'pretrained_cfg', None) or {}).get('architecture') or ''
    if not timm.is_model(name):
        return None
    arguments = dict(pretrained=False, num_classes=num_classes)
    size = getattr(getattr(backbone, 'patch_embed', None), 'img_size', None)
    with torch.device(next(backbone.parameters()).device):
        for extra in ({'img_size': size}, {}) if size is not None else ({},):
            try:
                fresh = timm.create_model(name, **arguments, **extra)
            except (TypeError, RuntimeError, AssertionError):
                continue
            return fresh if type(fresh) is type(backbone) else None
    return None


@torch.no_grad()
def start_afresh(net: nn.Module, source: nn.Module | None, touched: set[str]) -> None:
    """Give the parameters and buffers of `net` fresh values.

    Raises:
        ValueError: One that is used (`touched`) cannot be re-initialised.
    """
    values = source.state_dict() if source is not None else {}
    stale: dict[str, list[str]] = {}
    for name, tensor in net.state_dict().items():
        if name in values and values[name].shape == tensor.shape:
            tensor.copy_(values[name])
        else:
            stale.setdefault(name.rpartition('.')[0], []).append(name)
    for owner, names in stale.items():
        part = net.get_submodule(owner)
        if hasattr(part, 'reset_parameters'):
            part.reset_parameters()
        elif touched & set(names):
            raise ValueError(f'{names[0]!r} cannot be re-initialised: {type(part).__name__} has no reset_parameters')
