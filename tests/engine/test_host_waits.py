"""The training loop does not read from the device step by step: on an accelerator every read waits for it."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.reliability.runs import PLAIN
from dkszoo.engine.trainer import Trainer

METHODS = ('item', 'tolist', 'cpu', 'numpy', '__bool__', '__float__', '__int__', '__index__', '__array__', 'nonzero')
OPERATORS = ('_local_scalar_dense', 'is_nonzero', 'nonzero', 'equal', 'masked_select', '_unique2', 'unique_dim')


class Methods(TorchFunctionMode):
    """Counts the calls that read from a tensor."""

    def __init__(self, seen: list):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in [getattr(torch.Tensor, name) for name in METHODS]:
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    """Counts the operators that read from a tensor, wherever they are called from."""

    def __init__(self, seen: list):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in OPERATORS:
            self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(run_cli, monkeypatch):
    """`reads(*argv)` trains one epoch and gives what was read in it, from its first batch to its end."""

    def train(*argv: str) -> list[str]:
        seen, plain = [], Trainer.train_epoch

        def watched(self):
            with Methods(seen), Operators(seen):
                plain(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, 'train_epoch', watched)
            code, _, err = run_cli(*PLAIN, '--epochs', '1', '--recovery-interval', '1000', '--overwrite', *argv)
        assert code == 0, err
        return seen

    return train


@pytest.mark.parametrize(
    'argv',
    [
        (),
        pytest.param('--method byot --bce-loss --smoothing 0.1'.split(), marks=pytest.mark.slow),
        pytest.param('--mixup 0.2 --cutmix 1 --clip-grad 1 --grad-accum-steps 1'.split(), marks=pytest.mark.slow),
        pytest.param(
            '--clip-grad 0.1 --clip-mode agc --reprob 0.5 --cutout 4 --amp --amp-dtype bfloat16'.split(),
            marks=pytest.mark.slow,
        ),
    ],
    ids=['dks', 'byot', 'mixup', 'agc'],
)
def test_reads_do_not_grow_with_the_steps(reads, monkeypatch, argv):
    monkeypatch.setattr('dkszoo.engine.step.can_look_later', lambda *_: True)
    assert reads('--batch-size', '16', *argv) == reads('--batch-size', '8', *argv)


def test_looking_at_once_reads_in_every_step(reads):
    """What the test above would see."""
    assert len(reads('--batch-size', '8')) - len(reads('--batch-size', '16')) >= 6  # 13 steps, 7 steps


def test_reads_at_every_line_of_the_log(reads, monkeypatch):
    monkeypatch.setattr('dkszoo.engine.step.can_look_later', lambda *_: True)
    few, more = (len(reads('--log-interval', interval)) for interval in ('1000', '3'))
    assert few < more <= few + 2 * 4  # two lines in seven steps: the losses, the figures
