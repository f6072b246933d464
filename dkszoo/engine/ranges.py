"""Valid ranges of numeric settings: one table, for the flags of every command and the keys of recipes."""

import math
from typing import NamedTuple

from dkszoo.weights import LARGEST

MOST = 2**31  # of any count: far above what makes sense, far below a 64-bit overflow
SIDE = 2**11  # pixels; the limits for values in files allow three channels of this size


class Range(NamedTuple):
    """Numbers from `low` to `high`; `above` and `below` exclude the bound itself. Never NaN or infinite."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        if not -math.inf < number < math.inf:  # isfinite cannot take an int of many digits
            return False
        high = number < self.high if self.below else number <= self.high
        return high and (number > self.low if self.above else number >= self.low)

    def __str__(self) -> str:
        if self.low == -math.inf:
            return 'finite'
        low = f'{"above" if self.above else "at least"} {self.low}'
        if self.high == math.inf:
            return f'{low} and finite'
        return f'{low} and {"below" if self.below else "at most"} {self.high}'


FINITE = Range(-math.inf)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, above=True)
SHARE = Range(0, 1)  # or a probability
SHARE_BELOW = Range(0, 1, below=True)
COUNT = Range(1, MOST)
COUNT_FROM_0 = Range(0, MOST)
SEED = Range(0, 2**32 - 1)

RANGES = {
    **dict.fromkeys(('epochs', 'batch_size', 'grad_accum_steps', 'log_interval'), COUNT),
    **dict.fromkeys(('train_num_samples', 'decay_milestones'), COUNT),
    **dict.fromkeys(('num_classes', 'in_chans', 'validation_batch_size'), Range(1, LARGEST)),  # files may hold them
    **dict.fromkeys(
        ('warmup_epochs', 'branch_warmup_epochs', 'mixup_off_epoch', 'recovery_interval', 'skip_nonfinite'),
        COUNT_FROM_0,
    ),
    'img_size': Range(1, SIDE),
    **dict.fromkeys(('pad', 'cutout'), Range(0, SIDE)),
    'workers': Range(0, 1024),
    **dict.fromkeys(('seed', 'noise_seed'), SEED),
    **dict.fromkeys(
        ('hflip', 'vflip', 'reprob', 'mixup_prob', 'mixup_switch_prob', 'label_noise', 'model_ema_decay'), SHARE
    ),
    **dict.fromkeys(('drop', 'drop_path', 'val_split', 'smoothing', 'momentum', 'bce_target_thresh'), SHARE_BELOW),
    'crop_pct': Range(0.01, 10),  # timm has 1.15
    **dict.fromkeys(('layer_decay', 'scale'), Range(0, 1, above=True)),
    **dict.fromkeys(('lr', 'min_lr', 'warmup_lr', 'weight_decay', 'mixup', 'cutmix', 'color_jitter'), NOT_NEGATIVE),
    **dict.fromkeys(('branch_lr_scale', 'clip_grad', 'decay_epochs', 'decay_rate', 'std', 'ratio'), POSITIVE),
    'mean': FINITE,
}


def check_range(name: str, value) -> None:
    """Check a setting, or each of its numbers if it has several; None always passes.

    Raises:
        ValueError: A number is outside the range in `RANGES`.
    """
    if value is None:
        return
    for number in value if isinstance(value, tuple | list) else (value,):
        if number not in RANGES[name]:
            raise ValueError(f'{flag(name)} must be {RANGES[name]}, got {shorten(number)}')


def flag(name: str) -> str:
    return '--' + name.replace('_', '-')


def shorten(value) -> str:
    """A `repr` of readable length, even of a number with a thousand digits."""
    if type(value) is int and abs(value) >= 10**40:
        return f'a number of {int(math.log10(abs(value))) + 1} digits'
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:80]}...'
