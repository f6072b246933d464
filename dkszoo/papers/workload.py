"""Prediction of how long runs take, from their settings alone."""

import functools
import json
import statistics
import time

import torch

from dkszoo.branches import Cost, cost
from dkszoo.data import data_facts
from dkszoo.engine import TrainConfig, create_model
from dkszoo.tasks import DeepSupervisionTask

IMAGENET_IMAGES = 1_281_167  # assumed for data sets of unknown size: in the papers that is ImageNet


def work(settings: dict, teacher: dict | None = None) -> float:
    """The work of a whole run without evaluation, in the units of `Cost.work`.

    Args:
        settings: Settings of the run, by the names of `TrainConfig`.
        teacher: Settings of its teacher's run; the teacher's forward pass counts as a third of a training step.
    """
    config = TrainConfig.from_dict(settings)
    images = data_facts(config.dataset).num_train or IMAGENET_IMAGES
    images = config.train_num_samples or images * (1 - config.val_split)
    steps = config.epochs * images / config.batch_size
    step = run_cost(config).work
    if teacher is not None:
        other = run_cost(TrainConfig.from_dict(teacher))
        step += other.step_work(other.backbone) / 3
    return steps * step


def run_cost(config: TrainConfig) -> Cost:
    """The cost of a run's network and branches, computed once for all runs that share it.

    The cache's key is JSON, because a design and the model's arguments may be dicts.
    """
    design = config.branches or config.default_branches()
    facts = data_facts(config.dataset)
    arguments = dict(in_chans=config.in_chans or facts.in_chans, **(config.model_kwargs or {}))
    key = json.dumps(
        [config.model, design, config.taps, config.img_size or facts.img_size, config.batch_size, arguments]
    )
    return _cost(key)


@functools.cache
def _cost(key: str) -> Cost:
    model, design, taps, img_size, batch_size, arguments = json.loads(key)
    return cost(model, design, taps, img_size, batch_size, **arguments)


def seconds_per_work(model: str = 'cifar_resnet20', batch_size: int = 64) -> float:
    """Measure this machine's CPU: seconds per unit of work on one core, the median of five steps of a small network.

    On one thread, because threads that wait for cores in use by other work take up to twenty times as long.
    """
    net = create_model(model, branches='dks')
    task = DeepSupervisionTask(net, 'dks', verbose=False)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 100, (batch_size,))
    times = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(6):
            began = time.perf_counter()
            task(images, labels)['loss'].backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[1:]) / cost(net, batch_size=batch_size).work
