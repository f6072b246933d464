"""The settings of a run: one frozen dataclass, whose fields are the flags of train.py and the keys of a recipe."""

import dataclasses
import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from dkszoo.data import Augmentation, check_dataset
from dkszoo.tasks import LossSettings, get_method
from dkszoo.tasks.settings import check_value

from .kinds import coerce
from .ranges import RANGES, check_range, flag
from .settings import CUDA_GRAPHS, DataSettings, MethodSettings, ModelSettings, OptimSettings, RunSettings

# Settings that cannot change the result of a run that has started: they may differ when it is resumed.
# (A run that finishes has skipped no more losses than allowed; --resume was read at its start.)
FREE = (
    *('workers', 'log_interval', 'recovery_interval', 'skip_nonfinite', 'export'),
    *('output', 'experiment', 'resume', 'overwrite'),
)
# Settings that `open_data` fills in if they are not given.
FILLED_IN = (
    *('num_classes', 'in_chans', 'img_size', 'pad', 'hflip', 'branches', 'loader'),
    *('mean', 'std', 'interpolation', 'crop_pct', 'crop_mode'),
)
PATHS = ('data_dir', 'initial_checkpoint', 'kd_checkpoint')


def same_setting(name: str, one, other) -> bool:
    """Whether two values of a setting mean the same; a path can be written in several ways."""
    if name in PATHS and one and other:
        return os.path.realpath(one) == os.path.realpath(other)
    return one == other


def check_setting(folder: os.PathLike, name: str, stored, asked, cure: str) -> None:
    """Raise a ValueError unless the run in a folder has a setting that means the same as the one asked for."""
    if not same_setting(name, asked, stored):
        raise ValueError(f'{str(folder)!r} holds a run with {flag(name)} {say(stored)}, not {say(asked)} ({cure})')


@dataclass(frozen=True)
class TrainConfig(RunSettings, OptimSettings, DataSettings, LossSettings, MethodSettings, ModelSettings):
    """All settings of a run, validated on construction.

    Raises:
        ValueError: A value out of its range; an unknown method or data set.
    """

    def __post_init__(self):
        get_method(self.method)
        check_dataset(self.dataset)
        for name in RANGES:
            check_range(name, getattr(self, name))
        if self.pretrained and self.initial_checkpoint:
            raise ValueError('--pretrained and --initial-checkpoint both give weights (choose one)')
        if self.resume == 'auto':
            raise ValueError('--resume auto is what the same command does by itself (leave it out)')
        if self.val_split == 0 and self.best_on == 'val':
            raise ValueError('--val-split 0 leaves nothing to choose the best epoch on (add --best-on test)')
        if self.train_crop_mode == 'squash' and self.aa:
            raise ValueError("--train-crop-mode squash does not support --aa (choose one of timm's crops)")
        for name in ('scale', 'ratio'):
            value = getattr(self, name)
            if value is not None and (len(value) != 2 or value[0] > value[1]):
                raise ValueError(f'{flag(name)} must be two numbers, the smaller one first, got {list(value)}')
        if self.bce_target_thresh is not None and not self.bce_loss:
            raise ValueError('--bce-target-thresh without --bce-loss (add it)')
        if self.model_ema_warmup and not self.model_ema:
            raise ValueError('--model-ema-warmup without --model-ema (add it)')
        if self.batch_size == 1 and (self.mixup or self.cutmix):
            raise ValueError('--mixup and --cutmix mix images of one batch (give --batch-size 2 or more)')
        if self.torchcompile_mode and not self.torchcompile:
            raise ValueError('--torchcompile-mode without --torchcompile (add it)')
        if self.torchcompile_mode in CUDA_GRAPHS and self.grad_accum_steps > 1:
            raise ValueError(
                f'--torchcompile-mode {self.torchcompile_mode} cannot accumulate: a replayed graph writes over its '
                'last gradients (use --torchcompile-mode max-autotune-no-cudagraphs, or --grad-accum-steps 1)'
            )
        loss = {f.name for f in dataclasses.fields(LossSettings)}
        for field in dataclasses.fields(self):
            choices = field.metadata.get('choices')
            if choices or field.name in loss:
                check_value(field.name, getattr(self, field.name), choices, flag(field.name))

    def default_branches(self) -> str:
        """The branch design if none was given: the method's, or 'none' if its settings need no branches."""
        method = get_method(self.method)
        return method.design or 'auto' if method.needs_branches(self) else 'none'

    def augmentation(self) -> Augmentation:
        return Augmentation(self.pad, self.pad_mode, self.hflip, self.reprob, self.cutout, self.vflip, self.remode)

    def fixed(self) -> dict:
        """All settings that determine the result, as plain values."""
        return {key: value for key, value in self.to_dict().items() if key not in FREE}

    def to_dict(self) -> dict:
        """All settings as plain values: lists for tuples, so that they survive YAML and JSON."""
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: dict) -> 'TrainConfig':
        """The inverse of `to_dict`; missing keys take their default.

        Raises:
            ValueError: Unknown keys (see `check_names`) or a value of the wrong type.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        check_names(values)
        return cls(**{key: coerce(fields[key], value) for key, value in values.items()})


def check_names(values: Iterable) -> None:
    """Raise a ValueError that lists names which are no settings, with the nearest to the first."""
    names = [f.name for f in dataclasses.fields(TrainConfig)]
    if unknown := [name for name in values if name not in names]:
        near = difflib.get_close_matches(str(unknown[0]), names, 1)
        hint = f' (did you mean {near[0]!r}?)' if near else ''
        more = ', ...' if len(unknown) > 5 else ''
        raise ValueError(f'unknown setting {", ".join(map(repr, unknown[:5]))}{more}{hint}')


def say(value) -> str:
    """A setting in a message; None and '' stand for its default."""
    return 'its default' if value is None or value == '' else str(value)


def negation(name: str) -> str:
    """The flag that sets a switch to false."""
    return flag(name.removeprefix('no_') if name.startswith('no_') else f'no_{name}')


def plain(value):
    """Tuples to lists, recursively."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value
