"""Running totals of the training figures."""

import torch
from timm.utils import reduce_tensor

from .finite import losses_of
from .world import World


class Sums:
    """Sample-weighted totals of the training figures, kept on the device.

    Args:
        start: Totals to continue from.
        device: Device that holds them.
    """

    def __init__(self, start: dict[str, float], device: torch.device):
        self.device = device
        self.dtype = torch.float32 if device.type == 'mps' else torch.float64
        self.start = dict(start)  # until the first step, which gives `totals` their names
        self.samples = self.start.pop('samples', 0.0)
        self.names: tuple[str, ...] = ()
        self.totals: torch.Tensor | None = None

    def add(self, result: dict, labels: torch.Tensor) -> None:
        """Add one step: loss, terms and, from the labels [B], the top-1 of every head."""
        losses = losses_of(result)
        heads = [result['output'], *result.get('branch_output', ())]
        names = (*losses, 'top1', *(f'branch{i}_top1' for i in range(len(heads) - 1)))
        if names != self.names:
            self.start, self.names = self.to_dict(), names
            self.start.pop('samples', None)
            values = [self.start.pop(name, 0.0) for name in names]
            self.totals = torch.tensor(values, dtype=self.dtype, device=self.device)
        summed = torch.stack(list(losses.values())) * len(labels)
        right = (torch.stack(heads).detach().argmax(dim=2) == labels).sum(dim=1)
        self.totals = self.totals + torch.cat([summed.to(self.dtype), 100.0 * right.to(self.dtype)])
        self.samples += len(labels)

    def copy(self) -> 'Sums':
        """A copy of the current totals."""
        copy = Sums(self.start, self.device)
        copy.samples, copy.names, copy.totals = self.samples, self.names, self.totals  # `add` makes a new tensor
        return copy

    def to_dict(self) -> dict[str, float]:
        """The totals, and 'samples', their number of samples; empty before the first step."""
        if not self.samples:
            return {}
        values = [] if self.totals is None else self.totals.tolist()  # in one read: each waits for the device
        return {**self.start, **dict(zip(self.names, values, strict=True)), 'samples': self.samples}

    def means(self) -> dict[str, float]:
        return means_of(self.to_dict())

    def reduced_means(self, world: World) -> dict[str, float]:
        """The means over all processes."""
        totals = self.to_dict()
        if world.size > 1:
            values = torch.tensor(list(totals.values()), dtype=self.dtype, device=world.device)
            totals = dict(zip(totals, reduce_tensor(values, 1).tolist(), strict=True))
        return means_of(totals)


def means_of(totals: dict[str, float]) -> dict[str, float]:
    samples = totals.pop('samples', 1.0)
    return {key: value / samples for key, value in totals.items()}
