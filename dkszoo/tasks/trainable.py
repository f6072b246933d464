"""All that trains, in one module: the network and the terms."""

import torch
from torch import nn

from dkszoo.branches import DeeplySupervised, DeepOutput

from .terms import Batch, Term


class TrainableModule(nn.Module):
    """Network and terms: what DDP wraps, EMA averages, the optimizer updates and torch.compile captures whole.

    Args:
        net: The network with its branches.
        terms: The method's terms, by name.
    """

    def __init__(self, net: DeeplySupervised, terms: dict[str, Term]):
        super().__init__()
        self.net = net
        self.terms = nn.ModuleDict(terms)
        self.idle_branches = len(net.branches) > 0 and not any(term.uses_branches for term in terms.values())

    def forward(self, x: torch.Tensor, target: torch.Tensor, teacher: DeepOutput | None = None) -> dict:
        """Images and labels -> {'loss', 'output', one value a term}; the values are detached and add up to the loss."""
        output = self.net(x)
        batch = Batch(output, target, teacher)
        values = {name: term(batch) for name, term in self.terms.items()}
        loss = torch.stack(list(values.values())).sum()
        if self.idle_branches:  # DDP wants a gradient for every parameter, be it zero
            loss = loss + 0.0 * sum(z.sum() for z in output.branch_logits)
        return {'loss': loss, 'output': output.logits, **{name: value.detach() for name, value in values.items()}}

    def no_weight_decay(self) -> set[str]:
        return {f'net.{name}' for name in self.net.no_weight_decay()}

    def group_matcher(self, coarse: bool = False):
        """The network's layer groups; the terms' parameters belong to the last one."""
        matcher = self.net.group_matcher(coarse)
        return lambda name: matcher(name.removeprefix('net.'))
