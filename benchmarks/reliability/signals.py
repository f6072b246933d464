"""Three signals in five phases of a run: it must save, exit in time with the right code, and repeat no step."""

import os
import signal
import tempfile
import time
from pathlib import Path

from timm.task import ClassificationEvaluator

from dkszoo.engine import keeper, run
from dkszoo.engine.signals import SIGNALS
from dkszoo.engine.step import Stepper

from .runs import MIXED, differences, reference, start, wait

STEPS = 21  # of a whole run
LIMIT = 5.0  # seconds; a step of these runs takes a few milliseconds


def count_steps() -> None:
    """Make every step append a byte to the file `steps`."""
    plain = Stepper.__call__

    def counted(self, *args):
        result = plain(self, *args)
        with open('steps', 'ab') as file:
            file.write(b'.')
        return result

    Stepper.__call__ = counted


def send(signum: int) -> None:
    """Signal the whole process group, including loading processes, as terminals and most schedulers do."""
    Path('signalled').write_text(str(time.monotonic()))
    os.killpg(0, signum)


def on_call(owner, name: str, number: int, signum: int) -> None:
    """Send a signal at the start of call `number`, from 1, of a function."""
    plain, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(None)
        if len(calls) == number:
            send(signum)
        return plain(*args, **kwargs)

    setattr(owner, name, wrapped)


# Phase: the function that is called in it, and the number of the call.
PHASES = {
    'loading': (run, 'build', 1),
    'training': (Stepper, 'check_finite', 9),
    'evaluation': (ClassificationEvaluator, 'update', 2),
    'saving': (keeper, 'save_checkpoint', 2),
    'final test': (keeper.Keeper, 'load_weights', 2),
}


def try_signal(phase: str, signum: int, limit: float) -> tuple[float, list[str]]:
    """Seconds from the signal to the exit, and a list of what went wrong."""
    wrong = []
    with tempfile.TemporaryDirectory() as cwd:
        cwd = Path(cwd)

        def before() -> None:
            count_steps()
            on_call(*PHASES[phase], signum)

        code = wait(start(MIXED, cwd, before))
        seconds = time.monotonic() - float((cwd / 'signalled').read_text())
        if code != 128 + signum:
            wrong.append(f'exit code {code}')
        if seconds > limit:
            wrong.append(f'{seconds:.1f} s')
        if wait(start(MIXED, cwd, count_steps)):
            wrong.append('does not resume: ' + (cwd / 'output.txt').read_text()[-500:])
        elif broken := differences(MIXED, cwd):
            wrong.append(f'differs in {", ".join(broken)}')
        done = (cwd / 'steps').stat().st_size
        if done != STEPS:
            wrong.append(f'{done} steps instead of {STEPS}')
    return seconds, wrong


def signals(signums: tuple[int, ...] = SIGNALS, phases: tuple[str, ...] = tuple(PHASES), limit: float = LIMIT) -> bool:
    """Try every signal in every phase; the run must exit within `limit` seconds."""
    reference(MIXED)
    good = True
    for phase in phases:
        results = {signal.Signals(signum).name: try_signal(phase, signum, limit) for signum in signums}
        line = '  '.join(f'{name} {seconds:4.2f} s' for name, (seconds, _) in results.items())
        print(f'signals  {phase:11}  {line}', flush=True)
        for name, (_, wrong) in results.items():
            if wrong:
                good = False
                print(f'  {name}: {"; ".join(wrong)}')
    print(f'signals  {"all" if good else "NOT all"} saved, ended with 128 + signal within {limit:.0f} s, no step twice')
    return good
