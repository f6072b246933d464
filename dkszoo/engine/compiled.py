"""--torchcompile, and going on without it where it fails."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from dkszoo.tasks import DeepSupervisionTask

from .finite import NonFinite
from .snapshot import Snapshot

_logger = logging.getLogger(__name__)

TRIALS = 3  # CUDA graphs: the first step warms up, the second records, the third replays


def compile_task(task: DeepSupervisionTask, mode: str | None) -> bool:
    """Have a task compiled when it is first called, or say why not; returns whether it will be."""
    try:
        # Static shapes: an epoch's last, smaller batch gets a graph of its own. A graph for all sizes would be slower,
        # and torch would go on to use it for the whole ones.
        task.compile(mode=mode, dynamic=False)
    except RuntimeError as error:  # a system or an interpreter that torch.compile knows it cannot work on
        say_why(error)
        return False
    return True


def say_why(error: Exception) -> None:
    text = ' '.join(str(error).partition('\n\n')[0].split())[:300]  # then come advice and pages of code
    _logger.warning('--torchcompile fails, going on without it: %s: %s', type(error).__name__, text)


class CompiledSteps:
    """Does steps, without the compiler from the moment it fails.

    It works, or fails, in the first steps with images of a new shape, in the forward or in the backward pass. What such
    a step raises is taken for the compiler's fault: all it changed is put back, and it is done again without. If it is
    its own fault it raises the same once more.

    Args:
        active: Whether there is anything compiled; false from the moment it fails.
        module: All that trains.
        device: Where it is.
        alone: Whether this is the only process. Several cannot go on each for itself: a step done again would talk to
            those that did it once.
    """

    def __init__(self, active: bool, module: nn.Module, device: torch.device, alone: bool = True):
        self.active, self.module, self.device, self.alone = active, module, device, alone
        self.stance = nullcontext
        self.worked: Counter[torch.Size] = Counter()

    def __call__(self, step: Callable[[], dict], shape: torch.Size) -> dict:
        """Do a step with images of this shape; returns what it does."""
        if self.active:
            torch.compiler.cudagraph_mark_step_begin()  # what graphs gave in the last step may be written over
        if self.active and self.worked[shape] < TRIALS:
            before = Snapshot(self.module, self.device)
            before.take()
            try:
                result = step()
            except NonFinite:
                raise
            except Exception as error:
                if not self.alone:
                    raise RuntimeError('--torchcompile fails in one of several processes (leave it out)') from error
                say_why(error)
                before.put_back()
                self.active, self.stance = False, lambda: torch.compiler.set_stance('force_eager')
            else:
                self.worked[shape] += 1
                return result
        with self.stance():
            return step()
