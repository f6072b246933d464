"""One run, from settings to result."""

import dataclasses
import logging
from datetime import datetime, timezone

import torch

from .checkpoint import LAST, read_checkpoint, state_hash
from .config import TrainConfig
from .curves import draw_curves
from .folder import RunFolder
from .record import start_record
from .setup import Setup, build, open_data
from .signals import StopRequest
from .trainer import Trainer
from .world import World, join_world

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Run:
    """A run that is ready to start, or whose result is there already.

    Attributes:
        config: Its settings, resolved.
        folder: Its folder.
        record: The contents of its run.json.
        setup: What it is made of; None for a finished run.
    """

    config: TrainConfig
    folder: RunFolder
    record: dict
    setup: Setup | None
    trainer: Trainer | None = None

    @property
    def finished(self) -> bool:
        return 'result' in self.record


def resolve(config: TrainConfig) -> TrainConfig:
    """The settings with everything filled in that follows from data set, model and method."""
    return open_data(config)[0]


def prepare(config: TrainConfig, argv: list[str], stop: StopRequest) -> Run:
    """Check everything that can be checked, make or find the run folder, and restore what is in it.

    Raises:
        ValueError: Whatever the user can mend; nothing was overwritten.
    """
    world = join_world(config.device)
    config, data = open_data(config)
    folder = RunFolder.of(config)
    record = folder.read_record() if not config.overwrite else {}
    if 'result' in record and (folder.path / 'args.yaml').exists():
        folder.prepare(config)
        return Run(config, folder, record, None)
    if config.resume:
        read_checkpoint(config.resume)
    setup = build(config, data, world)
    if world.is_main:
        folder.prepare(config)
    wait(world)
    trainer = Trainer(setup, folder, stop, config.skip_nonfinite)
    trainer.resume()
    if world.is_main and not record:
        record = start_record(setup, argv, now())
        folder.write_record(record)
    return Run(config, folder, record, setup, trainer)


def execute(run: Run) -> dict:
    """Train to the end and complete run.json; returns the result.

    Raises:
        Stopped: A signal came; everything is saved.
        RunFailed: A non-finite loss.
    """
    trainer, world = run.trainer, run.setup.world
    result = trainer.fit()
    if world.is_main:
        last = read_checkpoint(run.folder.path / LAST)
        states = [last[key] for key in ('state_dict', 'task_state', 'state_dict_ema', 'task_state_ema') if key in last]
        run.record.update(result=result, weights_sha256=state_hash(*states), ended=now())
        run.folder.write_record(run.record)
        draw_curves(trainer.progress.history, run.folder.path / 'curves.png')
    wait(world)
    return result


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')


def wait(world: World) -> None:
    if world.size > 1:
        torch.distributed.barrier()
