"""The settings of the losses: one frozen dataclass, whose fields are flags of train.py and keywords of the task."""

import difflib
from dataclasses import dataclass, field, fields


def setting(default, help: str, **metadata):
    """A dataclass field with a help text and further metadata for the command line: `choices`, `metavar`, ..."""
    return field(default=default, metadata={'help': help, **metadata})


DEPTHS = {'alpha': 1, 'beta': 2}  # how deep lists of numbers may be nested; other settings are single numbers


@dataclass(frozen=True)
class LossSettings:
    """Weights and forms of the terms; None means the method's own default.

    Raises:
        ValueError: A value out of its range.
    """

    ce_weight: float | None = setting(None, 'weight of the main cross-entropy (default 1)')
    alpha: float | tuple[float, ...] | None = setting(
        None,
        'weight of the branch cross-entropies, one or one per branch, shallow to deep (default 1; byot 0.7)',
        metavar='A',
    )
    alpha_schedule: str | None = setting(
        None,
        'alpha over the epochs: constant, falling linearly to 0, or 0 from --alpha-zero-from on (default fixed)',
        choices=('fixed', 'linear', 'zeroing'),
    )
    alpha_zero_from: float | None = setting(None, 'fraction of the epochs after which zeroing starts (default 0.5)')
    synergy: str | None = setting(
        None,
        'which heads teach which (default bidirectional)',
        choices=('bidirectional', 'top-down', 'bottom-up'),
    )
    beta: float | tuple[tuple[float, ...], ...] | None = setting(
        None, 'weight of the synergy loss, or a matrix: row teaches column, main last (default 1)', metavar='B[,B;B,B]'
    )
    synergy_form: str | None = setting(
        None, 'KL or cross-entropy form, same gradient (default kl)', choices=('kl', 'ce')
    )
    synergy_eps: float | None = setting(None, "smoothing of the probabilities; the official code's is 1e-8 (default 0)")
    kd_weight: float | None = setting(None, "weight of the teacher's predictions (default 1)")
    kd_temperature: float | None = setting(None, 'temperature tau of teacher and student (default 4)')
    kd_on: str | None = setting(
        None, 'heads that learn from the teacher (default main; dskd both)', choices=('main', 'branches', 'both')
    )
    kd_scale_tau2: bool | None = setting(None, 'multiply the KD loss by tau^2 (default yes; DSKD eq. 1 does not)')
    branch_weighting: str | None = setting(
        None,
        "weights of the branches' losses from the teacher: 1 each, 1/(L-1) each, or each sample's share of the loss "
        '(default sum; dskd loss)',
        choices=('sum', 'equal', 'loss'),
    )
    branch_weight_grad: bool | None = setting(None, "let gradients pass through the weights of 'loss' (default no)")
    feature_weight: float | None = setting(None, "weight of the teacher's final map (default 30; 0 leaves it out)")
    feature_map: str | None = setting(
        None, 'compare the maps, or their means over positions (default spatial)', choices=('spatial', 'pooled')
    )
    feature_projection: str | None = setting(
        None, 'r(.): a 1x1 convolution with batch norm, or with bias (default conv-bn)', choices=('conv-bn', 'conv')
    )
    feature_reduction: str | None = setting(
        None, 'reduction of the squared difference of a sample (default mean)', choices=('mean', 'sum')
    )
    hint_weight: float | None = setting(None, 'weight of the FitNet hint (default 100)')
    hint_stage: int | None = setting(None, 'stage of the hint, from 0 (default 1, the second)')
    at_weight: float | None = setting(None, 'weight of attention transfer (default 1000)')
    at_power: float | None = setting(None, 'exponent p of attention transfer (default 2)')
    vid_weight: float | None = setting(None, 'weight of variational information distillation (default 1)')
    self_kd_weight: float | None = setting(None, "byot: weight of the main head's predictions (default 0.3)")
    self_kd_temperature: float | None = setting(None, 'byot: temperature (default 3)')
    self_feature_weight: float | None = setting(None, "byot: weight of the main head's feature (default 0.03)")

    def __post_init__(self):
        for f in fields(LossSettings):
            check_value(f.name, getattr(self, f.name), f.metadata.get('choices'))

    def given(self) -> dict:
        """The settings that are not None."""
        return {f.name: getattr(self, f.name) for f in fields(LossSettings) if getattr(self, f.name) is not None}


def make_settings(settings: dict) -> LossSettings:
    """The settings from keywords; tensors and arrays become plain numbers.

    Raises:
        ValueError: An unknown setting (names the nearest), or a value out of its range.
    """
    known = [f.name for f in fields(LossSettings)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f'did you mean {near[0]!r}?' if near else f'settings: {", ".join(known)}'
            raise ValueError(f'unknown setting {name!r} ({hint})')
    return LossSettings(**{k: v.tolist() if hasattr(v, 'tolist') else v for k, v in settings.items()})


def check_value(name: str, value, choices: tuple[str, ...] | None, label: str = '') -> None:
    """Raise a ValueError for a setting out of its range; None always passes. `label` replaces `name` in the message."""
    label = label or name
    if value is None:
        return
    if choices:
        if value not in choices:
            raise ValueError(f'{label} {value!r} is unknown (choose {" or ".join(choices)})')
        return
    if name == 'hint_stage' and type(value) is not int:
        raise ValueError(f'{label} must be a whole number, got {value!r}')
    numbers = [value]
    for _ in range(DEPTHS.get(name, 0)):
        numbers = [n for v in numbers for n in (v if isinstance(v, tuple | list) else (v,))]
    for number in numbers:
        if not hasattr(number, '__float__'):
            forms = ('one number', 'a number or a list of numbers', 'a number or rows of numbers')
            raise ValueError(f'{label} must be {forms[DEPTHS.get(name, 0)]}, got {value!r}')
        if not 0 <= number < float('inf'):
            raise ValueError(f'{label} must be at least 0 and finite, got {number}')
        if number == 0 and name.endswith('_temperature'):
            raise ValueError(f'{label} must be above 0, got {number}')
    if name == 'alpha_zero_from' and value > 1:
        raise ValueError(f'{label} must be a fraction of the epochs, 0 to 1, got {value}')
    if name == 'synergy_eps' and value != 0 and not 1e-30 <= value < 1:
        raise ValueError(f'{label} must be 0 or from 1e-30 to below 1, got {value}')
    if name == 'at_power' and value < 1:
        raise ValueError(f'{label} must be at least 1, got {value}')
