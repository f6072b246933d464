"""Terms by which the heads of one network learn from each other."""

from torch import nn

from dkszoo.losses import byot_feature_loss, byot_self_kd_loss, synergy_loss

from .base import Term, check_maps, zero_like


class Synergy(Term):
    """synergy: sum over (m, n) of beta_mn KL(sg p_m, p_n) (DKS eq. 4)."""

    settings = {'synergy': 'bidirectional', 'beta': 1.0, 'synergy_form': 'kl', 'synergy_eps': 0.0}
    uses_branches = True
    uses_softmax = True

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.kwargs = dict(
            pairs=settings['synergy'],
            beta=settings['beta'],
            form=settings['synergy_form'],
            eps=settings['synergy_eps'],
        )
        heads = len(context.net.branches) + 1
        beta = settings['beta']
        if (
            not isinstance(beta, int | float)
            and [len(row) if hasattr(row, '__len__') else 0 for row in beta] != [heads] * heads
        ):
            raise ValueError(f'beta must be one weight or a {heads} x {heads} matrix (rows teach columns, main last)')

    @classmethod
    def reaches_main(cls, settings):
        beta = settings['beta']
        weights = [beta] if isinstance(beta, int | float) else [row[-1] for row in beta[:-1]]
        return settings['synergy'] != 'top-down' and any(weights)

    def forward(self, batch):
        return synergy_loss([*batch.output.branch_logits, batch.output.logits], **self.kwargs)


class SelfDistillation(Term):
    """self_kd: sum over branches of H(sg softmax(z_main / tau), softmax(z_l / tau)) (BYOT, loss source 2)."""

    settings = {'self_kd_weight': 0.3, 'self_kd_temperature': 3.0}
    uses_branches = True
    teaches_main = False
    uses_softmax = True

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight, self.tau = settings['self_kd_weight'], settings['self_kd_temperature']

    def forward(self, batch):
        return self.weight * byot_self_kd_loss(batch.output.branch_logits, batch.output.logits, self.tau)


class SelfFeature(Term):
    """self_feature: sum over all branches but the deepest of ||W_l f_l + b_l - sg f_main|| (BYOT, loss source 3).

    f is a final map averaged over its positions. The deepest branch has no projection because the public code never
    uses its feature; a single branch is the deepest.
    """

    settings = {'self_feature_weight': 0.03}
    uses_branches = True
    teaches_main = False
    uses_example = True

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight = settings['self_feature_weight']
        output = context.example.output
        maps = output.branch_features[:-1]
        check_maps({'the final maps': output.features, **{f'the map of branch {i}': m for i, m in enumerate(maps)}})
        self.projections = nn.ModuleList(nn.Linear(m.shape[1], output.features.shape[1]) for m in maps)

    def forward(self, batch):
        if not self.projections:
            return zero_like(batch.output.logits)
        pairs = zip(self.projections, batch.output.branch_features, strict=False)  # all but the deepest
        features = [projection(m.mean((2, 3))) for projection, m in pairs]
        return self.weight * byot_feature_loss(features, batch.output.features.mean((2, 3)))
