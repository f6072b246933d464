"""Whether the losses are finite, looked at in every step or later."""

import torch

from .config import TrainConfig
from .world import World


def losses_of(result: dict) -> dict[str, torch.Tensor]:
    """The loss and the terms in what a task gave, without their history."""
    return {key: value.detach() for key, value in result.items() if key not in ('output', 'branch_output')}


class NonFinite(Exception):
    """A loss is not finite.

    Attributes:
        step: The step of the epoch, from 0.
        names: The terms to blame.
    """

    def __init__(self, step: int, names: list[str]):
        super().__init__(', '.join(names))
        self.step, self.names = step, names


def can_look_later(config: TrainConfig, device: torch.device) -> bool:
    """Whether losses are better looked at later: to read a number is to wait for the accelerator.

    Not where a step may have to be passed over, which nobody can do when others have followed it.
    """
    return device.type != 'cpu' and not config.skip_nonfinite


class FiniteCheck:
    """The losses of the steps, kept on the device until they are looked at.

    Args:
        world: The processes; all of them must look at the same steps.
        later: Look only when told to, not in every step.
    """

    def __init__(self, world: World, later: bool):
        self.world, self.later = world, later
        self.names: list[str] = []
        self.noted: dict[int, torch.Tensor] = {}

    def note(self, step: int, result: dict) -> None:
        """Note what a step of the epoch gave.

        Raises:
            NonFinite: The loss is not finite in some process, and this is not for later.
        """
        values = losses_of(result)
        self.names = list(values)
        self.noted[step] = torch.stack(list(values.values()))
        if not self.later:
            self.look()

    def look(self) -> None:
        """Look at all that was noted since the last time.

        Raises:
            NonFinite: A loss is not finite in some process; the first such step.
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
