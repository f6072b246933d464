"""The settings of the losses: one frozen dataclass, whose fields are flags of train.py and keywords of the task."""

from dataclasses import dataclass, field


def setting(default, help: str, **metadata):
    """A dataclass field that knows its help text; `choices` and `metavar` go to the command line."""
    return field(default=default, metadata={'help': help, **metadata})


@dataclass(frozen=True)
class LossSettings:
    """Weights and forms of the terms; None means the method's own default."""

    ce_weight: float | None = setting(None, 'weight of the main cross-entropy (default 1)')
    alpha: float | tuple[float, ...] | None = setting(
        None, 'weight of the branch cross-entropies, one or one a branch, shallow to deep (default 1)', metavar='A[,A]'
    )
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

    def given(self) -> dict:
        """The settings somebody has set."""
        return {name: value for name, value in vars(self).items() if value is not None}
