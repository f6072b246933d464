"""Design `mirror`: the rest of the main path once more, freshly initialised (DSKD, section 3.1)."""

import copy
from collections.abc import Sequence

import timm
import torch
from timm.layers import unfreeze_batch_norm_2d
from torch import nn

from .branch import MirrorBranch, classifiers
from .probe import Probe, open_front, skeleton


def build_mirror(probe: Probe, tap: int, num_classes: int) -> MirrorBranch:
    """The rest of the backbone from a tap on, with weights of its own.

    The branch is a copy of the backbone without what lies before the tap, settings (stochastic depth, dropout, ...)
    included. Its values come from a second network of the same name, so that they start as the model's author wants:
    zeroed last norms, layer scales, position tables. What that network lacks or has in another shape (a backbone built
    with other arguments) starts by its module's own `reset_parameters`.

    Raises:
        ValueError: See `check_mirror`.
    """
    backbone = probe.backbone
    rerun = probe.rerun(tap)
    net = skeleton(backbone, device=None)
    open_front(net, probe.info[tap]['module'])
    net = copy.deepcopy(net)  # only now do tensors get copied, and only those that are left
    with next(backbone.parameters()).device:
        net = unfreeze_batch_norm_2d(net)  # frozen, fresh ones would normalise nothing
    if num_classes != backbone.num_classes:
        net.reset_classifier(num_classes)
    start_afresh(net, donor(backbone, num_classes), rerun.touched)
    # The branches of a frozen backbone train all the same; what takes no part must not, or DDP waits for its gradient.
    trained = {id(p) for head in classifiers(net) for p in head.parameters()}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in rerun.touched or id(parameter) in trained)
    return MirrorBranch(net, rerun.layout == 'NHWC').train(backbone.training)


def check_mirror(probe: Probe, taps: Sequence[int]) -> None:
    """Look whether the rest of the backbone can be built again from these taps; draws no random number.

    Raises:
        ValueError: It cannot be run again from one, or a parameter of it cannot be started afresh.
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
    """A fresh network of the same name; None if there is none."""
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
    """Give every parameter and buffer of `net` that takes part (`touched`) a fresh value.

    Raises:
        ValueError: There is none to be had for one.
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
            raise ValueError(f'{names[0]!r} cannot be started afresh: {type(part).__name__} has no reset_parameters')
