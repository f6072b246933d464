"""The teacher: a frozen network that provides targets."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn

from dkszoo.branches import DeeplySupervised, strip
from dkszoo.branches.output import to_map

_logger = logging.getLogger(__name__)


class TeacherOutput(NamedTuple):
    """A teacher's outputs for a batch, all without gradients.

    Attributes:
        logits: [B, K].
        features: Its final map before pooling [B, C, H, W]; None if the network does not expose it.
        stages: The requested maps, each [B, C, H, W].
    """

    logits: torch.Tensor
    features: torch.Tensor | None
    stages: tuple[torch.Tensor, ...] = ()


class Teacher(nn.Module):
    """A frozen classifier: no gradients, always in evaluation mode, with its own normalisation.

    Args:
        model: Any classifier; a `DeeplySupervised` stands for its backbone. Held, not copied, and frozen.
        mean: Channel means it was trained with; default: its `pretrained_cfg`'s.
        std: Channel standard deviations it was trained with.
        input_mean: Channel means that the incoming images are normalised with; default: `mean`.
        input_std: Channel standard deviations that they are normalised with.
        input_size: (H, W) of the images it takes; None: any.
        dtype: Data type it computes in, regardless of autocast; None: its own, subject to autocast.

    Raises:
        ValueError: Means or standard deviations of different lengths, or a scripted or exported graph.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        input_mean: Sequence[float] | None = None,
        input_std: Sequence[float] | None = None,
        input_size: tuple[int, int] | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        try:
            self.model = strip(model).requires_grad_(False).eval()
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(f'the teacher cannot be frozen: {error} (pass the network, not a graph of it)') from error
        self.dtype = dtype
        self.input_size = None if input_size is None else tuple(input_size)
        described = own_statistics(self.model)
        own = described[0] if mean is None else mean, described[1] if std is None else std
        given = own[0] if input_mean is None else input_mean, own[1] if input_std is None else input_std
        known = all(values is not None for values in own + given)
        self.renormalises = known and tuple(map(tuple, own)) != tuple(map(tuple, given))
        if self.renormalises:
            if len({len(values) for values in own + given}) > 1:
                raise ValueError(
                    f"the teacher's mean and std have {len(own[0])} and {len(own[1])} values, the images' "
                    f'{len(given[0])} and {len(given[1])} (give one per channel)'
                )
            mean, std, input_mean, input_std = (torch.tensor(v).view(1, -1, 1, 1) for v in (*own, *given))
            self.register_buffer('scale', input_std / std, persistent=False)
            self.register_buffer('shift', (input_mean - mean) / std, persistent=False)
        super().train(False)
        if dtype is not None:
            self.model.to(dtype)

    @property
    def num_classes(self) -> int | None:
        return getattr(self.model, 'num_classes', None)

    def train(self, mode: bool = True) -> 'Teacher':
        """Do nothing: a teacher stays in evaluation mode."""
        return self

    @torch.no_grad()
    def forward(self, x: torch.Tensor, stages: Sequence[int] = ()) -> TeacherOutput:
        """Images [B, C, H, W], normalised as for the student -> the teacher's outputs.

        Args:
            x: The images.
            stages: `feature_info` indices of the maps to return, ascending.

        Raises:
            ValueError: The images have another size than it takes, or the network does not return logits.
        """
        if self.model.training:  # it is held, not copied: other code may have switched it
            self.model.eval()
        if self.input_size is not None and tuple(x.shape[2:]) != self.input_size:
            (h, w), got = self.input_size, tuple(x.shape[2:])
            raise ValueError(f'the teacher takes {h}x{w} images, got {got[0]}x{got[1]} (train at its size)')
        if self.renormalises:
            x = x * self.scale + self.shift
        with torch.autocast(x.device.type, enabled=False) if self.dtype is not None else nullcontext():
            weight = next(self.model.parameters(), x)
            return self.answer(x.to(weight.dtype), list(stages))

    def answer(self, x: torch.Tensor, stages: list[int]) -> TeacherOutput:
        model = self.model
        if not hasattr(model, 'forward_features') or not hasattr(model, 'forward_head'):
            logits = model(x)
            if not isinstance(logits, torch.Tensor):
                raise ValueError(f'the teacher returns a {type(logits).__name__}, expected logits [B, K] (wrap it)')
            return TeacherOutput(logits, None)
        if not stages:
            features = model.forward_features(x)
            return TeacherOutput(model.forward_head(features), to_map(features, None, model))
        features, maps = model.forward_intermediates(x, indices=stages, stop_early=False)  # Hiera's default is True
        return TeacherOutput(model.forward_head(features), to_map(features, maps[-1], model), tuple(maps))


def count_channels(model: nn.Module) -> int | None:
    """Image channels that a network takes; None if it neither declares them nor has a convolution."""
    convs = (module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    own = getattr(model, 'in_chans', None)
    return own if isinstance(own, int) else next(convs, None)


def own_statistics(model: nn.Module) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Mean and standard deviation in `pretrained_cfg`; None if they do not fit the network's number of channels.

    timm keeps those of three channels there, whatever `in_chans` a model is created with.
    """
    cfg, channels = getattr(model, 'pretrained_cfg', None) or {}, count_channels(model)
    mean, std = (cfg.get(key) for key in ('mean', 'std'))
    fits = mean is not None and std is not None and channels in (None, len(mean)) and len(std) == len(mean)
    return (mean, std) if fits else (None, None)


def adopt_teacher(teacher: nn.Module, net: DeeplySupervised, verbose: bool = True) -> Teacher:
    """The teacher as a `Teacher`, on the network's device; `verbose` warns if it is to see other images than given.

    Raises:
        TypeError: It is not a module.
        ValueError: It is the student itself, has other classes or channels, or the network is still on the meta device.
    """
    if not isinstance(teacher, nn.Module):
        raise TypeError(f'a teacher is a classifier, got {type(teacher).__name__} (timm.create_model makes one)')
    device = next(net.parameters()).device
    if device.type == 'meta' and any(not p.is_meta for p in teacher.parameters()):
        raise ValueError('the network has no values yet, so the teacher would lose its own (call net.to_empty first)')
    own = {id(p) for p in net.parameters()}
    if any(id(p) in own for p in teacher.parameters()):
        raise ValueError('the teacher is the network itself, which must not be frozen (pass a copy.deepcopy of it)')
    if not isinstance(teacher, Teacher):
        mean, std = own_statistics(net.backbone)
        teacher = Teacher(teacher, input_mean=mean, input_std=std)
        if verbose and teacher.renormalises:
            _logger.warning(
                "images are normalised again for the teacher, from the mean and std of the network's pretrained_cfg to "
                'those of its own (if yours are normalised as for the teacher: tasks.Teacher(model, mean, std, '
                'input_mean=mean, input_std=std))'
            )
    if teacher.num_classes not in (None, net.num_classes):
        raise ValueError(
            f'the teacher has {teacher.num_classes} classes, the network {net.num_classes} '
            '(take a teacher that was trained on this data set)'
        )
    channels, own = count_channels(teacher.model), count_channels(net.backbone)
    if None not in (channels, own) and channels != own:
        raise ValueError(f'the teacher takes images of {channels} channels, the network of {own}')
    return teacher.to(device)
