"""Everything that trains, in one module: the network and the terms."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from dkszoo.branches import DeeplySupervised

from .teacher import TeacherOutput
from .terms import Batch, Term


class TrainableModule(nn.Module):
    """Network and terms: what DDP wraps, EMA averages, the optimizer updates and torch.compile captures whole.

    Args:
        net: The network with its branches.
        terms: The method's terms, by name.
        criterion: The loss on labels, which terms take from the batch.
        stages: `feature_info` indices of the stages that the terms read.
        idle_branches: Whether there are branches that no term reads.

    Attributes:
        report_branches: Whether `forward` also returns 'branch_output', the logits of every branch, for accuracies.
    """

    def __init__(
        self,
        net: DeeplySupervised,
        terms: dict[str, Term],
        criterion: Callable,
        stages: Sequence[int],
        idle_branches: bool,
    ):
        super().__init__()
        self.net = net
        self.terms = nn.ModuleDict(terms)
        self.criterion = criterion
        self.stages = tuple(stages)
        self.idle_branches = idle_branches
        self.report_branches = False

    def forward(self, x: torch.Tensor, target: torch.Tensor, teacher: TeacherOutput | None = None) -> dict:
        """Images and labels -> {'loss', 'output', one value per term}; the detached values add up to the loss."""
        output, maps = self.net.forward_stages(x, self.stages)
        batch = Batch(output, target, teacher, maps, self.criterion)
        values = {name: term(batch) for name, term in self.terms.items()}
        loss = torch.stack(list(values.values())).sum()
        if self.idle_branches:  # DDP needs a gradient for every parameter, even if it is zero
            loss = loss + sum(z[:0].float().sum() for z in output.branch_logits)
        result = {'loss': loss, 'output': output.logits, **{name: value.detach() for name, value in values.items()}}
        if self.report_branches:
            result['branch_output'] = tuple(z.detach() for z in output.branch_logits)
        return result

    def no_weight_decay(self) -> set[str]:
        return {f'net.{name}' for name in self.net.no_weight_decay()}

    def group_matcher(self, coarse: bool = False):
        """The network's layer groups; the terms' parameters belong to the last one."""
        matcher = self.net.group_matcher(coarse)
        return lambda name: matcher(name.removeprefix('net.'))
