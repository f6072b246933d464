"""--torchcompile, with a fallback to eager mode."""

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
    """Set a task to be compiled at its first call; returns False, with a warning, if that is not possible here."""
    try:
        # Static shapes: an epoch's last, smaller batch gets its own graph. A graph for all sizes would be slower, and
        # torch would keep using it for full batches.
        task.compile(mode=mode, dynamic=False)
    except RuntimeError as error:  # a system or an interpreter that torch.compile does not support
        say_why(error)
        return False
    return True


def say_why(error: Exception) -> None:
    text = ' '.join(str(error).partition('\n\n')[0].split())[:300]  # without the advice and pages of code that follow
    _logger.warning('--torchcompile failed, continuing without it: %s: %s', type(error).__name__, text)


class CompiledSteps:
    """Runs steps compiled, and eagerly once the compiler has failed.

    The compiler runs, and may fail, in the first steps with images of a new shape, in the forward or backward pass. An
    error in such a step is attributed to it: what the step changed is restored, and it is repeated eagerly. If the
    step itself is at fault, it raises the same error again.

    Args:
        active: Whether anything is compiled; False once the compiler has failed.
        module: Everything that trains.
        device: The module's device.
        alone: Whether this is the only process. One of several cannot fall back: it would repeat collectives that the
            others run once.
    """

    def __init__(self, active: bool, module: nn.Module, device: torch.device, alone: bool = True):
        self.active, self.module, self.device, self.alone = active, module, device, alone
        self.stance = nullcontext
        self.worked: Counter[torch.Size] = Counter()

    def __call__(self, step: Callable[[], dict], shape: torch.Size) -> dict:
        """Run a step with images of this shape; returns its result."""
        if self.active:
            torch.compiler.cudagraph_mark_step_begin()  # outputs of the last step's graphs may be overwritten
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
