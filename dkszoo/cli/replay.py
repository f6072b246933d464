"""`dkszoo replay`."""

from pathlib import Path

import torch

from dkszoo import engine
from dkszoo.engine import TrainConfig
from dkszoo.engine.config import flag
from dkszoo.engine.record import read_record

from .main import Parser, tell
from .train import carry_out, execute

ADVICE = 'give the run.json of a finished run'
HERE = {
    'data_dir': ('DIR', 'where the data set is'),
    'kd_checkpoint': ('FILE', "the teacher's weights"),
    'initial_checkpoint': ('FILE', 'the first weights'),
    'resume': ('FILE', 'the checkpoint that the run resumed from'),
    'device': ('NAME', 'the device'),
}
MOST_THREADS = 1024  # more than any machine can use; torch aborts the process if it cannot create that many


def main(argv: list[str]) -> int:
    """Repeat a recorded run; returns 0 if its weights come out bit-identical, 1 if not."""
    parser = Parser(prog='dkszoo replay', description='Repeat a recorded run and compare the weights.')
    parser.add_argument('record', metavar='RUN.JSON', help='the run.json of a finished run')
    parser.add_argument('--output', default='replays', metavar='DIR', help='parent of the run folder (default replays)')
    for name, (metavar, what) in HERE.items():
        parser.add_argument(flag(name), metavar=metavar, help=f'{what} here (default: as recorded)')
    args = parser.parse_args(argv)
    path = Path(args.record)
    record = read_finished(path)
    own = dict(output=args.output, experiment=path.resolve().parent.name, export='', overwrite=False)
    own |= {name: value for name in HERE if (value := getattr(args, name))}
    config = TrainConfig.from_dict({**record['settings'], **own})
    if (Path(config.output) / config.experiment).resolve() == path.resolve().parent:
        raise ValueError(f'{config.output!r} holds the recorded run itself (choose another --output)')
    if record['threads'] != (threads := torch.get_num_threads()):
        tell(f'thread count: {record["threads"]} as recorded, not {threads}, the default of this machine')
        torch.set_num_threads(record['threads'])
    return carry_out(config, ['replay', *argv], lambda run: replay(run, record))


def read_finished(path: Path) -> dict:
    """The contents of a run.json that has everything a replay needs.

    Raises:
        ValueError: It is missing or damaged, or the run is not finished.
    """
    try:
        record = read_record(path, ADVICE)
    except OSError as error:
        raise ValueError(f'cannot read {str(path)!r}: {error} ({ADVICE})') from error
    if 'result' not in record:
        raise ValueError(f'{str(path)!r} has no result ({ADVICE})')
    if not 1 <= record['threads'] <= MOST_THREADS:
        raise ValueError(f'{str(path)!r} has {record["threads"]} threads (1 to {MOST_THREADS} are possible)')
    return record


def replay(run: engine.Run, record: dict) -> int:
    """Print what differs from the record, train, and print whether the weights are equal; returns the exit code."""
    if run.is_main:
        for line in engine.differences(record, run.record):
            tell(f'not as recorded, the weights may differ: {line}')
        if run.finished:
            tell(f'finished already ({run.folder.path}; remove it to run again):')
    if not run.finished:
        execute(run)
    if not run.is_main:
        return 0
    recorded, here = record['weights_sha256'], run.record['weights_sha256']
    if recorded == here:
        tell(f'equal: the weights have the recorded SHA-256, {here}')
        return 0
    tell(f'different: the weights have SHA-256 {here}, recorded is {recorded}')
    return 1
