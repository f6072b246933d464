"""Terms: one weighted loss each. A term reads the outputs of the network and gives a scalar."""

from typing import NamedTuple

import torch
from torch import nn

from dkszoo.branches import DeepOutput
from dkszoo.losses import synergy_loss


class Batch(NamedTuple):
    """What a term may look at."""

    output: DeepOutput
    target: torch.Tensor
    teacher: DeepOutput | None


class Term(nn.Module):
    """Base of the terms.

    `settings` names the fields of `LossSettings` the term reads, with the values they take by default. A term with
    parameters (projections, variances) makes them in its constructor; they train and are saved with the branches.

    Args:
        net: The network, a `DeeplySupervised`.
        criterion: The loss on labels.
        settings: The term's own settings, defaults filled in.
    """

    settings: dict = {}
    uses_branches = False
    uses_teacher = False

    def __init__(self, net: nn.Module, criterion: nn.Module, settings: dict):
        super().__init__()

    def forward(self, batch: Batch) -> torch.Tensor:
        """The weighted loss, a float32 (or float64) scalar."""
        raise NotImplementedError


def promote(logits: torch.Tensor) -> torch.Tensor:
    """Half precision to float32; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


class CrossEntropy(Term):
    """ce: CE(y, z_main)."""

    settings = {'ce_weight': 1.0}

    def __init__(self, net, criterion, settings):
        super().__init__(net, criterion, settings)
        self.criterion = criterion
        self.weight = settings['ce_weight']

    def forward(self, batch):
        return self.weight * self.criterion(promote(batch.output.logits), batch.target)


class DeepSupervision(Term):
    """ds: sum over branches of alpha_l CE(y, z_l) (DKS eq. 3)."""

    settings = {'alpha': 1.0}
    uses_branches = True

    def __init__(self, net, criterion, settings):
        super().__init__(net, criterion, settings)
        self.criterion = criterion
        branches, alpha = len(net.branches), settings['alpha']
        alpha = (alpha,) * branches if isinstance(alpha, int | float) else tuple(alpha)
        if len(alpha) != branches:
            raise ValueError(f'alpha has {len(alpha)} weights for {branches} branches (give one, or one a branch)')
        self.alpha = alpha

    def forward(self, batch):
        branch_logits = batch.output.branch_logits
        losses = [a * self.criterion(promote(z), batch.target) for a, z in zip(self.alpha, branch_logits, strict=True)]
        return torch.stack(losses).sum()


class Synergy(Term):
    """synergy: sum over (m, n) of beta_mn KL(sg p_m, p_n) (DKS eq. 4)."""

    settings = {'synergy': 'bidirectional', 'beta': 1.0, 'synergy_form': 'kl', 'synergy_eps': 0.0}
    uses_branches = True

    def __init__(self, net, criterion, settings):
        super().__init__(net, criterion, settings)
        self.kwargs = dict(
            pairs=settings['synergy'],
            beta=settings['beta'],
            form=settings['synergy_form'],
            eps=settings['synergy_eps'],
        )
        heads = len(net.branches) + 1
        beta = settings['beta']
        if not isinstance(beta, int | float) and [len(row) for row in beta] != [heads] * heads:
            raise ValueError(f'beta must be one weight or a {heads} x {heads} matrix (rows teach columns, main last)')

    def forward(self, batch):
        return synergy_loss([*batch.output.branch_logits, batch.output.logits], **self.kwargs)


TERMS = {'ce': CrossEntropy, 'ds': DeepSupervision, 'synergy': Synergy}
