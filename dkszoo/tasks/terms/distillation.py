"""Terms by which the heads learn from a teacher's predictions and final map."""

from collections import OrderedDict

import torch
from torch import nn

from dkszoo.losses import feature_loss_per_sample, kd_loss, kd_loss_per_sample, loss_weights, match_size

from .base import Term, check_maps, zero_like


class Distillation(Term):
    """kd: tau^2 KL(softmax(z_T / tau), softmax(z_l / tau)) of the main head, the branches or both (DSKD eq. 1-3)."""

    settings = {
        'kd_weight': 1.0,
        'kd_temperature': 4.0,
        'kd_on': 'main',
        'kd_scale_tau2': True,
        'branch_weighting': 'sum',
        'branch_weight_grad': False,
    }
    uses_teacher = True
    uses_softmax = True

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight, self.on = settings['kd_weight'], settings['kd_on']
        self.kwargs = dict(tau=settings['kd_temperature'], scale_tau2=settings['kd_scale_tau2'])
        self.weighting = dict(form=settings['branch_weighting'], weight_grad=settings['branch_weight_grad'])

    @classmethod
    def needs_branches(cls, settings):
        return settings['kd_on'] != 'main'

    @classmethod
    def reaches_main(cls, settings):
        return settings['kd_on'] != 'branches' and settings['kd_weight'] > 0

    def forward(self, batch):
        teacher, losses = batch.teacher.logits, []
        if self.on != 'branches':
            losses.append(kd_loss(batch.output.logits, teacher, **self.kwargs))
        if self.on != 'main':
            branches = [kd_loss_per_sample(z, teacher, **self.kwargs) for z in batch.output.branch_logits]
            losses.append(weighted_mean(branches, **self.weighting))
        return self.weight * torch.stack(losses).sum()


class Feature(Term):
    """feature: MSE(F_T, r(F_l)) of the main head, the branches or both, F a final map (DSKD eq. 4-6).

    r is a 1x1 convolution with a batch norm or a bias, one per head. If sizes differ, the larger map is average-pooled
    to the size of the smaller.
    """

    settings = {
        'feature_weight': 30.0,
        'feature_map': 'spatial',
        'feature_projection': 'conv-bn',
        'feature_reduction': 'mean',
        'kd_on': 'both',
        'branch_weighting': 'loss',
        'branch_weight_grad': False,
    }
    uses_teacher = True
    teaches_main = False
    uses_example = True

    def __init__(self, context, settings):
        super().__init__(context, settings)
        self.weight, self.on = settings['feature_weight'], settings['kd_on']
        self.pooled = settings['feature_map'] == 'pooled'
        self.reduction = settings['feature_reduction']
        self.weighting = dict(form=settings['branch_weighting'], weight_grad=settings['branch_weight_grad'])
        self.projections = nn.ModuleList()
        if self.weight:  # with weight 0 nothing is projected or computed
            teacher = context.example.teacher.features
            maps = self.maps(context.example.output)
            names = [f'the final map of head {i}' for i in range(len(maps))]
            check_maps({"the teacher's final map": teacher, **dict(zip(names, maps, strict=True))})
            bn = settings['feature_projection'] == 'conv-bn'
            self.projections.extend(projection(m.shape[1], teacher.shape[1], bn) for m in maps)

    @classmethod
    def needs_branches(cls, settings):
        return settings['kd_on'] != 'main'

    def maps(self, output):
        """The final maps of the heads that learn: the main one first, then the branches."""
        main = [output.features] if self.on != 'branches' else []
        return [*main, *(output.branch_features if self.on != 'main' else ())]

    def distance(self, features, target):
        """The squared difference per sample [B], as a mean or sum over channels and positions."""
        features, target = match_size(features, target)
        if self.pooled:
            features, target = features.mean((2, 3)), target.mean((2, 3))
        loss = feature_loss_per_sample(features, target)
        return loss * features[0].numel() if self.reduction == 'sum' else loss

    def forward(self, batch):
        if not self.projections:
            return zero_like(batch.output.logits)
        target = batch.teacher.features
        projected = [r(m) for r, m in zip(self.projections, self.maps(batch.output), strict=True)]
        losses = [self.distance(features, target) for features in projected]
        values = [losses.pop(0).mean()] if self.on != 'branches' else []
        if losses:
            values.append(weighted_mean(losses, **self.weighting))
        return self.weight * torch.stack(values).sum()


def projection(in_chs: int, out_chs: int, bn: bool) -> nn.Sequential:
    """r(.): a 1x1 convolution, with a batch norm or with a bias."""
    layers = OrderedDict(conv=nn.Conv2d(in_chs, out_chs, 1, bias=not bn))
    if bn:
        layers['bn'] = nn.BatchNorm2d(out_chs)
    return nn.Sequential(layers)


def weighted_mean(losses: list[torch.Tensor], form: str, weight_grad: bool) -> torch.Tensor:
    """The branches' losses, weighted sample by sample and averaged over the batch.

    Args:
        losses: One tensor [B] per branch.
        form: 'sum' (each branch counts 1), 'equal' (1 / (L-1)) or 'loss' (its share of the sum, DSKD eq. 7 and 8).
        weight_grad: Let the gradient pass through the weights of 'loss' too; the value is the same.
    """
    stacked = torch.stack(losses)
    if form == 'sum':
        return stacked.sum(0).mean()
    if form == 'equal':
        return stacked.mean()
    if weight_grad:  # sum_l (loss_l / sum_j loss_j) loss_l
        return (stacked.square().sum(0) / stacked.sum(0).clamp_min(torch.finfo(stacked.dtype).tiny)).mean()
    return (loss_weights(stacked) * stacked).sum(0).mean()
