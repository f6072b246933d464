"""Terms that learn from the labels, by the task's criterion."""

import torch

from .base import Batch, Term, promote


def judge(batch: Batch, logits: torch.Tensor) -> torch.Tensor:
    """The criterion's loss for one head's logits [B, K], a scalar.

    Raises:
        ValueError: It returned one loss per sample; their sum would make the learning rate depend on the batch size.
    """
    loss = batch.criterion(promote(logits), batch.target)
    if loss.ndim:
        raise ValueError(f"the criterion's loss has shape {tuple(loss.shape)}, expected a scalar (reduction='mean')")
    return loss


class CrossEntropy(Term):
    """ce: CE(y, z_main)."""

    settings = {'ce_weight': 1.0}

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight = settings['ce_weight']

    @classmethod
    def reaches_main(cls, settings):
        return settings['ce_weight'] > 0

    def forward(self, batch):
        return self.weight * judge(batch, batch.output.logits)


class DeepSupervision(Term):
    """ds: sum over branches of alpha_l CE(y, z_l) (DKS eq. 3).

    The schedule multiplies every alpha by 1 (fixed), by 1 - epoch / epochs (linear), or by 1 until the fraction
    `alpha_zero_from` of the epochs and by 0 from then on (zeroing).
    """

    settings = {'alpha': 1.0, 'alpha_schedule': 'fixed', 'alpha_zero_from': 0.5}
    uses_branches = True
    teaches_main = False

    def __init__(self, context, settings):
        super().__init__(context, settings)
        branches, alpha = len(context.net.branches), settings['alpha']
        alpha = (alpha,) * branches if isinstance(alpha, int | float) else tuple(alpha)
        if len(alpha) != branches:
            raise ValueError(f'alpha has {len(alpha)} weights for {branches} branches (give one, or one per branch)')
        self.alpha = alpha
        self.schedule, self.zero_from = settings['alpha_schedule'], settings['alpha_zero_from']
        # A tensor, so that a new value does not recompile the graph.
        self.register_buffer('scale', torch.ones(()), persistent=False)
        self.factor = 1.0

    def set_progress(self, done):
        self.factor = {'fixed': 1.0, 'linear': 1.0 - done, 'zeroing': float(done < self.zero_from)}[self.schedule]
        self.scale.fill_(self.factor)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.scale.fill_(self.factor)  # `to_empty` gives it no value, and it is in no state dict
        return self

    def forward(self, batch):
        losses = [a * judge(batch, z) for a, z in zip(self.alpha, batch.output.branch_logits, strict=True)]
        return self.scale * torch.stack(losses).sum()
