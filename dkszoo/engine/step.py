"""One training step."""

from contextlib import nullcontext

import numpy as np
import torch
from timm.utils import dispatch_clip_grad, unwrap_model

from dkszoo.data import mix

from .rng import rng_state, set_rng_state
from .setup import Setup


class NonFinite(Exception):
    """The loss is not finite; `names` holds the terms to blame."""

    def __init__(self, names: list[str]):
        super().__init__(', '.join(names))
        self.names = names


class Snapshot:
    """What a forward pass changes: the buffers (running statistics) and the generators.

    Args:
        setup: The run.
    """

    def __init__(self, setup: Setup):
        self.device = setup.world.device
        self.buffers = list(unwrap_model(setup.task.get_trainable_module()).buffers())
        self.copies = [torch.empty_like(buffer) for buffer in self.buffers]
        self.rng = None

    @torch.no_grad()
    def take(self) -> None:
        torch._foreach_copy_(self.copies, self.buffers)
        self.rng = rng_state(self.device)

    @torch.no_grad()
    def put_back(self) -> None:
        torch._foreach_copy_(self.buffers, self.copies)
        set_rng_state(self.rng, self.device)


class Stepper:
    """Forward, backward and update, with accumulation, clipping, mixed precision and EMA.

    Args:
        setup: The run.
    """

    def __init__(self, setup: Setup):
        self.setup = setup
        config, device = setup.config, setup.world.device
        self.accumulate = config.grad_accum_steps
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.autocast = nullcontext
        if config.amp:
            dtype = getattr(torch, config.amp_dtype)
            self.autocast = lambda: torch.autocast(device.type, dtype=dtype)

        self.before = Snapshot(setup)

    def to_device(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.setup.world.device
        images = images.to(device, memory_format=self.memory_format, non_blocking=True)
        return images, targets.to(device, non_blocking=True)

    def mix(self, images: torch.Tensor, targets: torch.Tensor, epoch: int, step: int):
        """Mixup and CutMix, seeded by (seed, epoch, step, process)."""
        config, world = self.setup.config, self.setup.world
        if self.setup.mixup is None:
            return images, targets
        np.random.seed(mix(config.seed, epoch, step, world.rank) % 2**32)  # noqa: NPY002 - timm's class uses it
        even = len(images) - len(images) % 2  # timm pairs a batch with itself reversed
        return self.setup.mixup(images[:even], targets[:even])

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, step: int, steps: int, updates: int) -> tuple:
        """One step.

        Args:
            images: [B, C, H, W] on the device.
            targets: [B], or soft [B, K].
            step: Its number in the epoch, from 0.
            steps: Steps of the epoch; the last one always updates.
            updates: Parameter updates so far.

        Returns:
            What the task gave, and whether the parameters were updated.

        Raises:
            NonFinite: All is as it was at the last parameter update.
        """
        task = self.setup.task
        last_group = steps - steps % self.accumulate
        group = self.accumulate if step < last_group else steps - last_group
        update = (step + 1) % self.accumulate == 0 or step + 1 == steps
        if step % self.accumulate == 0:
            self.before.take()
        with task.no_sync() if not update else nullcontext():
            with self.autocast():
                result = task(images, targets)
            self.check_finite(result)
            self.backward(result['loss'] / group, update)
        if update:
            self.setup.optimizer.zero_grad()
            task.update_ema(step=updates + 1)
        return result, update

    def check_finite(self, result: dict) -> None:
        """Raise `NonFinite` unless the loss is finite in all processes; all that changed since the update goes back."""
        world, broken = self.setup.world, not torch.isfinite(result['loss'])
        if not world.largest(broken)[0]:
            return
        self.before.put_back()
        self.setup.optimizer.zero_grad()
        values = {k: v for k, v in result.items() if k not in ('loss', 'output', 'branch_output')}
        names = [k for k, v in values.items() if not torch.isfinite(v)]
        if broken and not names:
            names = ['loss']
        raise NonFinite(list(dict.fromkeys(name for part in world.gather(names) for name in part)))

    def backward(self, loss: torch.Tensor, update: bool) -> None:
        config, task = self.setup.config, self.setup.task
        parameters = None
        if config.clip_grad is not None:
            parameters = task.get_clip_parameters(exclude_head=config.clip_mode == 'agc')
        if self.setup.scaler is not None:
            self.setup.scaler(
                loss,
                self.setup.optimizer,
                clip_grad=config.clip_grad,
                clip_mode=config.clip_mode,
                parameters=parameters,
                need_update=update,
            )
            return
        loss.backward()
        if update:
            if config.clip_grad is not None:
                dispatch_clip_grad(parameters, config.clip_grad, mode=config.clip_mode)
            self.setup.optimizer.step()
