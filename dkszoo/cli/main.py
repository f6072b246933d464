"""The command `dkszoo`: runs a subcommand and turns errors into messages and exit codes."""

import argparse
import difflib
import errno
import importlib
import io
import logging
import os
import re
import sys
import traceback
from typing import TextIO

import dkszoo

from .timm_flags import advise

COMMANDS = {
    'train': 'train a classifier with training-only branches',
    'validate': 'measure the accuracy of a model or checkpoint',
    'export': 'strip the branches of a checkpoint, verify and write it',
    'convert': "write another project's checkpoint as an export",
    'models': 'list the models, their sizes and weights',
    'cost': 'show what branches cost, before training',
    'bench': 'time a training step, part by part',
    'reproduce': "run a paper's table, or a scaled analogue of it, beside its numbers",
    'compare': 'train several methods with the same settings and compare them',
    'replay': 'repeat a recorded run and tell whether the weights are equal',
}

CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')  # all control characters but tab and line feed


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors look like all others of dkszoo, and that does not accept abbreviated flags."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)
        self._negative_number_matcher = re.compile(r'-\.?\d')  # as in Python 3.14: -0.1,0.2 and -1e-3 are not flags

    def parse_args(self, args=None, namespace=None):
        # Intermixed, so that `IN --flag OUT` gives both files; plain argparse ends the list at the flag.
        rest = any(action.nargs == argparse.REMAINDER for action in self._actions)
        parse = self.parse_known_args if rest else self.parse_known_intermixed_args
        parsed, unknown = parse(args, namespace)
        if unknown:
            hint = self.hint(unknown)
            raise ValueError(f'unknown arguments: {" ".join(unknown)} ({hint}see {self.prog} --help)')
        return parsed

    def hint(self, unknown: list[str]) -> str:
        """What may have been meant by unknown arguments; '' if there is no telling."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        if '--data-dir' in flags and os.path.isdir(unknown[0]):
            split = ', and --split . if the classes are in it' if '--split' in flags else ''
            return f"a folder of images is --dataset '' --data-dir {unknown[0]}{split}; "
        if advice := advise(unknown, flags):
            return f'{advice}; '
        names = [flag for flag in flags if len(flag) > 4]
        near = difflib.get_close_matches(unknown[0].partition('=')[0], names, 1, cutoff=0.77)  # typos, no more
        return f'did you mean {near[0]}? ' if near else ''

    def error(self, message: str):
        raise ValueError(f'{message} (see {self.prog} --help)')


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0, 1 (a check failed), 2 (a user's mistake), 128 + signal."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == 'strict':
        sys.stdout.reconfigure(errors='backslashreplace')  # as stderr: a path it cannot encode fails nothing
    parser = Parser(
        prog='dkszoo',
        description='Image classifiers trained with training-only auxiliary branches.',
        epilog='\n'.join(f'  {name:10}{help}' for name, help in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'dkszoo {dkszoo.__version__}')
    parser.add_argument('command', metavar='COMMAND', help=f'one of {", ".join(COMMANDS)}')
    rest = parser.add_argument('arguments', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    rest.required = False  # else errors would list it beside COMMAND
    prog, handlers, level = parser.prog, list(logging.root.handlers), logging.root.level
    try:
        args = parser.parse_args(argv)
        if args.command not in COMMANDS:
            near = difflib.get_close_matches(args.command, COMMANDS, 1)
            hint = f'did you mean {near[0]}?' if near else f'commands: {", ".join(COMMANDS)}'
            raise ValueError(f'unknown command {args.command!r} ({hint})')
        prog = prog_name(args.command)
        command = importlib.import_module(f'dkszoo.cli.{args.command}')
        code = command.main(args.arguments)
        if sys.stdout:
            sys.stdout.flush()  # the last chance to notice that the reader is gone
        return code
    except BrokenPipeError:  # the reader of our output has closed it: `dkszoo models | head`
        discard(sys.stdout)
        return 141  # 128 + SIGPIPE
    except (ValueError, OSError) as error:
        return fail(error, 2, prog)
    except KeyboardInterrupt:
        return 130
    finally:
        logging.root.handlers = handlers  # else a second command in this process would log everything twice
        logging.root.setLevel(level)


def prog_name(command: str) -> str:
    """The name of a command in its help: its own script if that was run (train.py, validate.py)."""
    script = os.path.basename(sys.argv[0])
    return script if script == f'{command}.py' else f'dkszoo {command}'


def fail(error: BaseException | str, code: int, prog: str = '') -> int:
    """Print one line on stderr and return the exit code; DKSZOO_DEBUG=1 prints the traceback first.

    Args:
        error: The message; by convention it ends with what to do, in brackets.
        code: The exit code.
        prog: Command whose --help is suggested if the message has no such ending; '' for none.
    """
    if os.environ.get('DKSZOO_DEBUG') and isinstance(error, BaseException):
        traceback.print_exception(error)
    text = ' '.join(str(error).split())
    if prog and not text.endswith(')'):
        text += f' (see {prog} --help)'
    tell(f'dkszoo: error: {text}', sys.stderr)
    return code


def say_stopped(error: dkszoo.engine.Stopped, again: str) -> int:
    """Print how to resume after a signal, with the command `again`; returns the exit code."""
    tell(f'dkszoo: stopped by {error}; {again} resumes from here', sys.stderr)
    return error.exit_code


def tell(line: str, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a line on stdout or `file`; if its terminal has been closed, drop it: the work goes on.

    Control characters, which names in files may have, are escaped.
    """
    file = file or sys.stdout
    try:
        print(CONTROL.sub(lambda found: repr(found[0])[1:-1], line), file=file, flush=flush)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        discard(file)


def discard(file: TextIO) -> None:
    """Drop all that is still to be written to a file whose reader is gone; else Python's final flush fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
