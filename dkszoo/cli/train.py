"""`dkszoo train` and `python train.py`."""

import errno
import logging
import os
import traceback
from collections.abc import Callable

from timm.utils import setup_default_logging

from dkszoo import deploy, engine, papers
from dkszoo.data import UnreadableImage
from dkszoo.engine import TrainConfig
from dkszoo.engine.checkpoint import BEST
from dkszoo.engine.folder import RunFolder
from dkszoo.weights import dump_yaml

from .flags import add_config, add_flags
from .main import Parser, fail, prog_name, say_stopped, tell

# What a loading process that cannot be started, or was killed, ends in, besides a RuntimeError.
LOADING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ECONNRESET, errno.ECONNREFUSED)


def main(argv: list[str]) -> int:
    """Train, test, and export if requested."""
    parser = Parser(prog=prog_name('train'), description='Train a classifier with training-only branches.')
    add_config(parser)
    parser.add_argument('--print-config', action='store_true', help='show the settings, resolved, and stop')
    add_flags(parser)
    values = vars(parser.parse_args(argv))
    recipe, print_config = values.pop('config'), values.pop('print_config')
    settings = papers.read_recipe(recipe) if recipe is not None else {}
    config = TrainConfig.from_dict({**settings, **values})
    if settings.get('export') and 'export' not in values:
        check_export(TrainConfig.from_dict(settings), config)
    if print_config:
        print(dump_yaml({**engine.resolve(config).to_dict(), 'overwrite': False}), end='')
        return 0
    if config.export:
        deploy.check_target(config.export)
    return carry_out(config, ['train.py', *argv], train)


def check_export(recipe: TrainConfig, config: TrainConfig) -> None:
    """Raise a ValueError if the export of a recipe's own run would be replaced by that of another run."""
    own, other = RunFolder.of(recipe).path, RunFolder.of(config).path
    if own.resolve() != other.resolve():
        raise ValueError(
            f"{config.export!r} is the export of {str(own)!r} (--export names another file, --export '' none)"
        )


def carry_out(config: TrainConfig, argv: list[str], work: Callable[[engine.Run], int]) -> int:
    """Prepare a run and call `work` with it; returns the exit code, also after signals, full disks and failed checks.

    Raises:
        ValueError: The settings or the run folder must be corrected first.
    """
    setup_default_logging(logging.WARNING if int(os.environ.get('RANK', 0)) else logging.INFO)
    again = 'the same command'
    try:
        with engine.StopRequest() as stop, engine.prepare(config, argv, stop) as run:
            again = same_command(config)  # only from here on has --overwrite removed the old run
            try:
                return work(run)
            except BrokenPipeError:  # not the disk: the reader of the output is gone
                raise
            except OSError as error:  # a disk error at this point is not a mistake in the settings
                cure = 'give fewer --workers' if error.errno in LOADING else 'free some space or repair the disk'
                hint = f'{cure}; {again} resumes from what is saved'
                raise engine.RunFailed(f'{error} ({hint})') from error
    except (engine.RunFailed, deploy.VerificationFailed) as error:
        return fail(error, 1)
    except engine.Stopped as error:
        return say_stopped(error, again)


def same_command(config: TrainConfig) -> str:
    """How to resume an interrupted run."""
    return 'the same command' + (' without --overwrite' if config.overwrite else '')


def execute(run: engine.Run) -> None:
    """Train to the end; a ValueError from here on is not a mistake in the settings.

    Raises:
        RunFailed: Training failed.
    """
    try:
        engine.execute(run)
    except UnreadableImage as error:
        raise engine.RunFailed(f'{str(error).removesuffix(")")}; {outlook(run)})') from error
    except (ValueError, RuntimeError) as error:  # out of memory, a loading process killed
        traceback.print_exc()
        raise engine.RunFailed(f'training failed, see above ({outlook(run)})') from error


def outlook(run: engine.Run) -> str:
    """What the next start of a failed run begins with."""
    saved = any(run.folder.path.glob('*.pth.tar'))
    return f'{same_command(run.config)} resumes from what is saved' if saved else 'nothing is saved yet'


def train(run: engine.Run) -> int:
    """Execute a run unless it is finished, then print its result and export it if requested."""
    if run.finished:
        if run.is_main:
            tell(f'finished already ({run.folder.path}):')
    else:
        execute(run)
    if not run.is_main:
        return 0
    result = run.record['result']
    card = None  # before the first line, whose reader may be gone
    if run.config.export:
        card = deploy.export(run.folder.path / BEST, run.config.export)
    for name in ('last', 'best'):
        figures = result[name]
        branches = ', '.join(f'{v:.2f}' for k, v in figures.items() if k.startswith('branch') and k.endswith('top1'))
        heads = f' (branches {branches})' if branches else ''
        epoch = f'best epoch, {result["best_epoch"] + 1} on {run.record["best_on"]}' if name == 'best' else 'last epoch'
        tell(f'test accuracy, {epoch}: top-1 {figures["top1"]:.2f} %, top-5 {figures["top5"]:.2f} %{heads}')
    if card:
        print_card(run.config.export, card)
    return 0


def print_card(out: str, card: dict) -> None:
    tell(f'{out}: {card["arch"]}, {card["num_params"]:,} parameters, {card["flops"]:,} FLOPs per image')
    tell(f'verified: {card["verified"]}')
    tell(f'sha256 {card["sha256"]}')
