"""Timing of a training step and its parts."""

import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from timm.utils import unwrap_model

from .evaluate import evaluate
from .record import device_name
from .setup import Setup
from .signals import batches_of
from .step import Stepper
from .sums import Sums

WARM_UP = 3
GROUPS = 10


class Clock:
    """Seconds by part.

    Args:
        device: The device that works; every reading waits for it.
    """

    def __init__(self, device: torch.device):
        wait = functools.partial(torch.accelerator.synchronize, device)
        self.wait: Callable[[], None] = wait if device.type != 'cpu' else lambda: None
        self.seconds: dict[str, float] = {}
        self.began: dict[str, float] = {}

    def now(self) -> float:
        self.wait()
        return time.perf_counter()

    def start(self, part: str) -> None:
        self.began[part] = self.now()

    def stop(self, part: str) -> None:
        if part in self.began:
            self.seconds[part] = self.seconds.get(part, 0.0) + self.now() - self.began.pop(part)

    def around(self, module: torch.nn.Module, part: str) -> list:
        """Time every call of a module; returns the handles of the hooks."""
        return [
            module.register_forward_pre_hook(lambda *_: self.start(part)),
            module.register_forward_hook(lambda *_: self.stop(part)),
        ]


def endless(setup: Setup) -> Iterator:
    """The full training batches, epoch after epoch: (epoch, step, images, targets).

    Raises:
        ValueError: There are too few images for one.
    """
    whole = setup.sampler.total // setup.sampler.global_batch
    if not whole:
        raise ValueError(f'{setup.sampler.total} training images are fewer than a batch (give a smaller --batch-size)')
    for epoch in itertools.count():
        setup.sampler.set_position(epoch)
        with batches_of(setup.loader) as batches:
            for step, (images, targets) in enumerate(itertools.islice(batches, whole)):
                yield epoch, step, images, targets


def measure(setup: Setup, steps: int) -> dict:
    """Time `steps` whole training steps, as many part by part, and evaluation; this trains the network.

    Returns:
        What was measured ('torchcompile' is the mode, or False), with 'images_per_second', 'step_ms' (median),
        'parts_ms' (mean, by part), 'peak_memory_mib' and 'eval_images_per_second'.
    """
    device, config = setup.world.device, setup.config
    clock, stepper, batches, sums = Clock(device), Stepper(setup), endless(setup), Sums({}, device)
    setup.task.train()

    def step() -> None:
        clock.start('data')
        epoch, number, images, targets = next(batches)
        images, labels = stepper.to_device(images, targets)
        images, targets = stepper.mix(images, labels, epoch, number)
        clock.stop('data')
        result, _ = stepper(images, targets, number, 0)
        sums.add(result, labels[: len(images)])

    for _ in range(WARM_UP):
        step()
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    seconds, design = time_whole(clock, step, steps), setup.task.get_net().design
    return {
        'model': config.model,
        'method': config.method,
        'branches': design if isinstance(design, str) else config.branches,
        'device': device_name(device),
        'threads': torch.get_num_threads(),
        'batch_size': config.batch_size,
        'loader': config.loader,
        'torchcompile': stepper.compiled.active and (config.torchcompile_mode or 'default'),
        'amp': config.amp_dtype if config.amp else '',
        'images_per_second': setup.sampler.global_batch / seconds,
        'step_ms': 1000 * seconds,
        'parts_ms': time_parts(setup, stepper.compiled.active, clock, step, steps),
        'peak_memory_mib': peak_memory(device),
        'eval_images_per_second': eval_speed(setup),
    }


def time_whole(clock: Clock, step: Callable[[], None], steps: int) -> float:
    """Seconds per step, the median over groups of steps; the device is synchronised only between groups."""
    wait, clock.wait = clock.wait, lambda: None
    seconds = []
    while steps:
        count = max(1, steps // (GROUPS - len(seconds)))
        wait()
        began = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        seconds.append((time.perf_counter() - began) / count)
        steps -= count
    clock.wait = wait
    return statistics.median(seconds)


def time_parts(setup: Setup, compiled: bool, clock: Clock, step: Callable[[], None], steps: int) -> dict[str, float]:
    """Milliseconds per step by part; the parts of a compiled graph cannot be told apart."""
    task, optimizer = setup.task, setup.optimizer
    whole = 'forward' if compiled else 'forward_all'
    handles = clock.around(task.trainable_module, whole)
    handles += [
        task.trainable_module.register_forward_hook(lambda *_: clock.start('backward')),
        optimizer.register_step_pre_hook(lambda *_: clock.stop('backward')),
        optimizer.register_step_pre_hook(lambda *_: clock.start('optimizer')),
        optimizer.register_step_post_hook(lambda *_: clock.stop('optimizer')),
    ]
    if task.teacher is not None:
        handles += clock.around(task.teacher, 'teacher')
    if not compiled:
        net, terms = task.get_net(), unwrap_model(task.get_trainable_module()).terms
        handles += [h for branch in net.branches for h in clock.around(branch, 'branches')]
        handles += [h for term in terms.values() for h in clock.around(term, 'terms')]
    clock.seconds = {}
    began = clock.now()
    for _ in range(steps):
        step()
        clock.stop('backward')  # a step that only accumulates has no optimizer hook to stop it
    seconds = {**clock.seconds, 'other': clock.now() - began}
    for handle in handles:
        handle.remove()
    if 'forward_all' in seconds:
        inner = seconds.get('branches', 0.0) + seconds['terms']
        seconds['backbone'] = seconds.pop('forward_all') - inner
    seconds['other'] -= sum(value for part, value in seconds.items() if part != 'other')
    order = ('data', 'teacher', 'backbone', 'branches', 'terms', 'forward', 'backward', 'optimizer', 'other')
    return {part: 1000 * seconds[part] / steps for part in order if part in seconds}


def eval_speed(setup: Setup) -> float:
    """Images per second in evaluation of all heads."""
    config, device, shape = setup.config, setup.world.device, (setup.config.in_chans,) + (setup.config.img_size,) * 2
    count = config.validation_batch_size
    batch = torch.rand(count, *shape), torch.zeros(count, dtype=torch.long)
    net = setup.task.get_net()
    evaluate(net, [batch], device, config.channels_last)
    began = time.perf_counter()
    evaluate(net, [batch] * 2, device, config.channels_last)  # it reads its figures, so it is done when it returns
    return 2 * count / (time.perf_counter() - began)


def peak_memory(device: torch.device) -> float | None:
    """Peak memory in MiB: torch's on the CUDA device, CUDA graphs included, else the whole process's, if known."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_reserved(device) / 2**20
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
