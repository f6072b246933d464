"""One training step."""

from contextlib import nullcontext

import numpy as np
import torch
from timm.utils import dispatch_clip_grad, unwrap_model

from dkszoo.data import mixed_seed

from .compiled import CompiledSteps
from .finite import FiniteCheck, NonFinite, can_look_later
from .setup import Setup
from .snapshot import Snapshot


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

        module = unwrap_model(setup.task.get_trainable_module())
        self.finite = FiniteCheck(setup.world, can_look_later(config, device))
        self.before = Snapshot(module, device)
        self.compiled = CompiledSteps(setup.compiled, module, device, setup.world.size == 1)

    def to_device(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.setup.world.device
        images = images.to(device, memory_format=self.memory_format, non_blocking=True)
        return images, targets.to(device, non_blocking=True)

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, epoch: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixup and CutMix, seeded by (seed, epoch, step, process)."""
        config, world = self.setup.config, self.setup.world
        if self.setup.mixup is None:
            return images, targets
        np.random.seed(mixed_seed(config.seed, epoch, step, world.rank) % 2**32)  # noqa: NPY002 - timm's class uses it
        self.setup.mixup.mixup_enabled = not config.mixup_off_epoch or epoch < config.mixup_off_epoch
        even = len(images) - len(images) % 2  # timm pairs a batch with itself reversed
        return self.setup.mixup(images[:even], targets[:even])

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, step: int, updates: int) -> tuple[dict, bool]:
        """Run one step.

        Args:
            images: [B, C, H, W] on the device.
            targets: [B], or soft [B, K].
            step: Its number in the epoch, from 0; an epoch's last step always updates.
            updates: Parameter updates so far.

        Returns:
            The task's result, and whether the parameters were updated.

        Raises:
            NonFinite: The loss was checked and is not finite; everything is as after the last parameter update.
        """
        task, steps = self.setup.task, self.setup.sampler.steps
        last_group = steps - steps % self.accumulate
        group = self.accumulate if step < last_group else steps - last_group
        update = (step + 1) % self.accumulate == 0 or step + 1 == steps
        if step % self.accumulate == 0 and not self.finite.later:
            self.before.take()

        def work() -> dict:
            with task.no_sync() if not update else nullcontext():
                with self.autocast():
                    result = task(images, targets)
                self.check_finite(result, step)
                self.backward(result['loss'] / group, update)
            return result

        result = self.compiled(work, images.shape)
        if update:
            self.setup.optimizer.zero_grad()
            task.update_ema(step=updates + 1)
        return result, update

    def check_finite(self, result: dict, step: int) -> None:
        """Record the losses; if they are checked now and not finite, undo all changes since the last update."""
        try:
            self.finite.note(step, result)
        except NonFinite:
            self.before.put_back()
            raise

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
