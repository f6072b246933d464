"""Checks that the losses are finite, in every step or later."""

import torch

from .config import TrainConfig
from .world import World


def losses_of(result: dict) -> dict[str, torch.Tensor]:
    """The loss and the terms in a task's result, detached."""
    return {key: value.detach() for key, value in result.items() if key not in ('output', 'branch_output')}


class NonFinite(Exception):
    """A loss is not finite.

    Attributes:
        step: The step of the epoch, from 0.
        names: The terms that are not finite, or 'loss' if only their sum is not.
    """

    def __init__(self, step: int, names: list[str]):
        super().__init__(', '.join(names))
        self.step, self.names = step, names


def can_look_later(config: TrainConfig, device: torch.device) -> bool:
    """Whether to check losses later, since reading a number waits for the accelerator.

    Not if steps may be skipped: a step cannot be skipped once others have followed it.
    """
    return device.type != 'cpu' and not config.skip_nonfinite


class FiniteCheck:
    """The losses of the steps, kept on the device until they are checked.

    Args:
        world: The processes; all of them must check the same steps.
        later: Check only when `look` is called, not in every step.
    """

    def __init__(self, world: World, later: bool):
        self.world, self.later = world, later
        self.names: list[str] = []
        self.noted: dict[int, torch.Tensor] = {}

    def note(self, step: int, result: dict) -> None:
        """Record the losses of a step of the epoch, and check them unless `later`.

        Raises:
            NonFinite: The loss was checked and is not finite in some process.
        """
        values = losses_of(result)
        self.names = list(values)
        self.noted[step] = torch.stack(list(values.values()))
        if not self.later:
            self.look()

    def look(self) -> None:
        """Check all losses recorded since the last check.

        Raises:
            NonFinite: A loss is not finite in some process (names the first such step).
        """
        if not self.noted:
            return
        steps, values = list(self.noted), torch.stack(list(self.noted.values()))
        self.noted = {}
        broken = [dict(zip(self.names, row, strict=True)) for row in (~torch.isfinite(values)).tolist()]
        first = next((i for i, row in enumerate(broken) if row['loss']), len(steps))
        first = len(steps) - self.world.largest(len(steps) - first)[0]
        if first == len(steps):
            return
        blamed = [name for name, bad in broken[first].items() if bad]
        blamed = [name for name in blamed if name != 'loss'] or blamed
        raise NonFinite(steps[first], list(dict.fromkeys(n for part in self.world.gather(blamed) for n in part)))
