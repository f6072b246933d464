"""`dkszoo train`, `python train.py`."""

import sys
import traceback

import yaml
from timm.utils import setup_default_logging

from dkszoo import deploy, engine, papers
from dkszoo.engine import TrainConfig

from .flags import add_flags
from .main import Parser, fail


def main(argv: list[str]) -> int:
    """Train, test, and export if asked to."""
    parser = Parser(prog='train.py', description='Train a classifier with training-only branches.')
    parser.add_argument('--config', metavar='NAME_OR_FILE', help='recipe, by name or YAML file; flags beat it')
    parser.add_argument('--print-config', action='store_true', help='show the settings, resolved, and stop')
    add_flags(parser)
    values = vars(parser.parse_args(argv))
    recipe, print_config = values.pop('config'), values.pop('print_config')
    config = TrainConfig.from_dict({**(papers.read_recipe(recipe) if recipe else {}), **values})
    if print_config:
        print(yaml.safe_dump(engine.resolve(config).to_dict(), sort_keys=False), end='')
        return 0
    if config.export:
        deploy.check_target(config.export)
    setup_default_logging()
    with engine.StopRequest() as stop:
        try:
            run = engine.prepare(config, ['train.py', *argv], stop)
            stop.check()
        except engine.Stopped as error:
            return stopped(error)
        try:
            return train(run)
        except engine.Stopped as error:
            return stopped(error)
        except OSError as error:
            return fail(f'{error} (free some space or mend the disk; the same command goes on from what is saved)', 1)
        except ValueError:  # nothing a user gave is checked this late: let the traceback show
            traceback.print_exc()
            return fail('training failed, see above (the same command goes on from what is saved)', 1)
        except (engine.RunFailed, deploy.VerificationFailed) as error:
            return fail(error, 1)


def stopped(error: engine.Stopped) -> int:
    print(f'dkszoo: stopped by {error}; the same command goes on from here', file=sys.stderr)
    return error.exit_code


def train(run: engine.Run) -> int:
    """Execute a run that is not finished, then print its result and export it."""
    if run.finished:
        print(f'finished already ({run.folder.path}):')
    else:
        engine.execute(run)
    result = run.record['result']
    for name in ('last', 'best'):
        figures = result[name]
        branches = ', '.join(f'{v:.2f}' for k, v in figures.items() if k.startswith('branch'))
        heads = f' (branches {branches})' if branches else ''
        epoch = f'epoch {result["best_epoch"] + 1} by {run.record["best_on"]}' if name == 'best' else 'last epoch'
        print(f'test accuracy, {epoch}: top-1 {figures["top1"]:.2f} %, top-5 {figures["top5"]:.2f} %{heads}')
    if run.config.export:
        card = deploy.export(run.folder.path / 'model_best.pth.tar', run.config.export)
        print_card(run.config.export, card)
    return 0


def print_card(out: str, card: dict) -> None:
    print(f'{out}: {card["arch"]}, {card["num_params"]:,} parameters, {card["flops"]:,} FLOPs an image')
    print(f'verified: {card["verified"]}')
    print(f'sha256 {card["sha256"]}')
