"""Running totals of the training figures."""

import torch
from timm.utils import reduce_tensor


class Sums:
    """Sample-weighted totals of the training figures, kept on the device.

    Args:
        start: Totals to go on from.
        device: Where they are kept.
    """

    def __init__(self, start: dict[str, float], device: torch.device):
        self.device = device
        self.dtype = torch.float32 if device.type == 'mps' else torch.float64
        self.totals = {key: torch.tensor(value, dtype=self.dtype, device=device) for key, value in start.items()}

    def add(self, result: dict, labels: torch.Tensor) -> None:
        """Add one step: loss, terms and, from the labels [B], the top-1 of every head."""
        count = len(labels)
        figures = {k: v.detach() * count for k, v in result.items() if k not in ('output', 'branch_output')}
        heads = {'top1': result['output'].detach()}
        heads |= {f'branch{i}_top1': z for i, z in enumerate(result.get('branch_output', ()))}
        figures |= {key: 100.0 * (z.argmax(dim=1) == labels).sum() for key, z in heads.items()}
        samples = torch.full((), count, dtype=self.dtype, device=self.device)
        for key, value in {**figures, 'samples': samples}.items():
            value = value.to(self.dtype)
            self.totals[key] = self.totals[key] + value if key in self.totals else value

    def copy(self) -> 'Sums':
        """The totals as they are now."""
        copy = Sums({}, self.device)
        copy.totals = dict(self.totals)  # `add` puts new tensors in their place
        return copy

    def to_dict(self) -> dict[str, float]:
        if not self.totals:
            return {}
        values = torch.stack(list(self.totals.values())).tolist()  # together: each read waits for the device
        return dict(zip(self.totals, values, strict=True))

    def means(self) -> dict[str, float]:
        totals = self.to_dict()
        samples = totals.pop('samples', 0.0) or 1.0
        return {key: value / samples for key, value in totals.items()}

    def reduced_means(self, world) -> dict[str, float]:
        """The means over all processes."""
        if world.size > 1:
            for key, value in self.totals.items():
                self.totals[key] = reduce_tensor(value.to(world.device), 1).cpu()
        return self.means()
