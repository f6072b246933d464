"""One run, from settings to result."""

import contextlib
import dataclasses
import logging
from datetime import UTC, datetime

from dkszoo.branches import cost

from .checkpoint import LAST, read_checkpoint, state_hash
from .config import TrainConfig
from .curves import draw_curves
from .data import Data, open_data, warn_of_crop
from .evaluate import check_images
from .folder import RunFolder
from .optim import updates_per_epoch
from .record import differences, file_hashes, hash_of, image_counts, new_record
from .setup import Setup, build
from .signals import StopRequest
from .trainer import Trainer
from .world import World, join_world

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Run:
    """A run that is ready to start, or already finished.

    Attributes:
        config: Its settings, resolved.
        folder: Its folder.
        record: The contents of its run.json.
        trainer: What trains it; None for a finished run.
        is_main: Whether this process is the one that writes and prints.
    """

    config: TrainConfig
    folder: RunFolder
    record: dict
    trainer: Trainer | None = None
    is_main: bool = True

    @property
    def finished(self) -> bool:
        return 'result' in self.record

    def __enter__(self) -> 'Run':
        return self

    def __exit__(self, *error) -> None:
        self.folder.lock.release()


def resolve(config: TrainConfig) -> TrainConfig:
    """The settings, completed by what follows from data set, model and method.

    Raises:
        ValueError: No such model, data set, file or branch design, or settings that do not fit the data.
    """
    return open_data(config)[0]


def prepare(config: TrainConfig, argv: list[str], stop: StopRequest) -> Run:
    """Check everything that can be checked, create or open the run folder, and restore the run in it.

    Raises:
        ValueError: Anything the user can fix; nothing was overwritten.
    """
    world = join_world(config.device)
    config, data = open_data(config)
    folder = RunFolder.of(config)
    record = {} if config.overwrite else folder.read_record(quiet=True)  # read again once the folder is locked
    check_same(world, 'result' in record, folder)
    if 'result' in record:
        folder.check_settings(config, finished=True)
        folder.check_result(record)
        if world.is_main:
            folder.lock.sweep()  # the run may have been killed after writing its result
            warn_of_files(record, config)
        return Run(config, folder, record, is_main=world.is_main)
    setup = build(config, data, world)
    if world.is_main:
        log_start(setup)
        warn_of_average(setup)
        warn_of_crop(config)
        warn_of_warmup(config)
    trainer = Trainer(setup, folder, stop)
    new = not folder.path.exists()
    try:
        if world.is_main and not new:
            folder.open(config)
            check_counts(record, data, folder)
        world.wait()
        trainer.resume()
        check_same(world, (trainer.progress.epoch, trainer.progress.step), folder)
        if world.is_main:
            folder.claim(config, new)
            with folder.writing():
                if data.flips:
                    folder.write_flips(data.flips)
                trainer.settle()
            record = begin_record(folder, setup, argv)
    except BaseException:
        folder.lock.release()
        raise
    return Run(config, folder, record, trainer, world.is_main)


def warn_of_files(record: dict, config: TrainConfig) -> None:
    """Warn if a finished run started from other files than these; it no longer needs them."""
    with contextlib.suppress(OSError):
        here = {key: value for key, value in file_hashes(config).items() if value}
        for line in differences(record, {**record, **here}):
            _logger.warning('the finished run had another %s', line)


def check_same(world: World, found, folder: RunFolder) -> None:
    """Raise a ValueError unless all processes found the same; otherwise they would wait for each other forever."""
    if len(set(world.gather(found))) > 1:
        raise ValueError(
            f'the processes find different files in {str(folder.path)!r} (give an --output that all of them see)'
        )


def check_counts(record: dict, data: Data, folder: RunFolder) -> None:
    """Raise a ValueError if images were added or removed: it would hold out others, and has trained on some of them.

    The number of test images may differ, unless the best epoch is chosen on them.
    """
    counts = image_counts(data)
    if record.get('best_on') == 'val':
        del counts['test_images']
    for key, count in counts.items():
        if record.get(key, count) != count:
            what = key.replace('_', ' ')
            raise ValueError(
                f'the run in {str(folder.path)!r} was started with {record[key]} {what}, but there are {count} now '
                '(restore them, or --overwrite starts anew)'
            )


def begin_record(folder: RunFolder, setup: Setup, argv: list[str]) -> dict:
    """run.json from the start of the run, written now if it starts here. Warns about what has changed since."""
    here, record = new_record(setup, argv, now()), folder.read_record()
    # --resume is only read at the start: a run that continues needs neither the file nor its hash.
    here['resume_sha256'] = record.get('resume_sha256') if record else hash_of(setup.config.resume)
    for line in differences(record, here):
        _logger.warning('the run was started with another %s: the result may differ', line)
    if not record:
        with folder.writing():
            folder.write_record(here)
        return here
    return {**record, 'test_images': here['test_images']}  # those that the result will be of


def log_start(setup: Setup) -> None:
    """Log the data, and what the network and its branches cost, before training."""
    config, data = setup.config, setup.data
    views = {'training': data.train, 'validation': data.val, 'test': data.test}
    counts = ', '.join(f'{len(view):,} {name}' for name, view in views.items() if view)
    _logger.info('data: %s images, %d classes', counts, config.num_classes)
    try:
        lines = cost(setup.task.get_net(), img_size=config.img_size, batch_size=config.batch_size).lines()
    except ValueError as error:
        size = (config.in_chans, config.img_size, config.img_size)
        check_images(setup.task.get_net(), config.model, size)  # if it passes, only the cost is missing
        lines = [f'cost: not known ({error})']
    for line in lines:
        _logger.info('%s', line)


def warn_of_average(setup: Setup) -> None:
    """Warn if the averaged weights, which are evaluated, will keep over 10 % of those after the first update.

    timm's average equals the weights after the first update; from then on the decay applies.
    """
    config = setup.config
    if not config.model_ema or config.model_ema_warmup:
        return
    updates = config.epochs * updates_per_epoch(config, setup.sampler.steps)
    if updates > 1 and (share := config.model_ema_decay ** (updates - 1)) > 0.1:
        _logger.warning(
            '--model-ema-decay %g over %d updates: %.0f %% of the average will be the weights after the first one '
            '(%.6g leaves 1 %%, --model-ema-warmup almost nothing)',
            config.model_ema_decay,
            updates,
            100 * share,
            0.01 ** (1 / (updates - 1)),
        )


def warn_of_warmup(config: TrainConfig) -> None:
    """Warn if the run ends before its warm-up does, as one that was shortened for a try."""
    if config.warmup_epochs >= config.epochs:
        _logger.warning(
            '--warmup-epochs %d of %d epochs: the learning rate never reaches --lr', config.warmup_epochs, config.epochs
        )


def execute(run: Run) -> dict:
    """Train to the end and complete run.json; returns the result.

    Raises:
        Stopped: A signal came; everything is saved.
        RunFailed: A loss or a weight is not finite.
    """
    trainer = run.trainer
    result = trainer.fit()  # the other processes do not wait for the first one's test: it may exceed their timeout
    if run.is_main:
        last = read_checkpoint(run.folder.path / LAST)
        states = [last[key] for key in ('state_dict', 'task_state', 'state_dict_ema', 'task_state_ema') if key in last]
        title = f'{run.config.model}, {run.config.method}, {run.config.dataset or run.config.data_dir}'
        draw_curves(trainer.progress.history, run.folder.path / 'curves.png', title, trainer.progress.best_epoch)
        run.record.update(result=result, weights_sha256=state_hash(*states), ended=now())
        run.folder.write_record(run.record)
    return result


def now() -> str:
    return datetime.now(UTC).isoformat(timespec='seconds')
