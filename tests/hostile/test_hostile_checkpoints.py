"""Training checkpoints that are whole files, with anything in them: what --resume and the run folder say of them."""

import copy
import functools
from pathlib import Path

import pytest
import torch
import yaml

from dkszoo.engine.checkpoint import read_checkpoint
from dkszoo.weights import untrusted

GOLDEN = Path(__file__).parents[1] / 'golden/checkpoint_format1.pth.tar'  # of the run below, in its second epoch
RUN = tuple(
    """
    train --model cifar_resnet8 --model-kwargs channels=[2,4,4] stem_chs=2 --device cpu --experiment tiny
    --epochs 3 --train-num-samples 100 --batch-size 16 --lr 0.05 --warmup-epochs 1 --recovery-interval 2
    --model-ema --model-ema-decay 0.8 --drop 0.1 --grad-accum-steps 2 --workers 0 --opt adamw --mixup 0.2
    """.split()
)
GONE = object()
OWN, PROGRESS = ('dkszoo',), ('dkszoo', 'progress')
HISTORY = [{'epoch': 0, 'lr': 0.1, 'train': {}, 'eval': {}}]


def nested() -> list:
    """Sixty lists, of which the innermost stands for 2^59 values."""
    value = [1]
    for _ in range(60):
        value = [value, value]
    return value


POSITION = ('MT19937', torch.zeros(624, dtype=torch.int64), 2**30, 0, 0.0)  # a state of NumPy's generator
# Where in the file, what is put there, what the message says.
DAMAGE = {
    'format': ((*OWN, 'format'), [[1]], 'has format [['),
    'format as truth': ((*OWN, 'format'), True, 'has format True'),
    'too many values': (('extra',), nested(), 'too many values'),
    'progress': (PROGRESS, 'x', "its 'progress'"),
    'no progress': (PROGRESS, {}, "it has no 'epoch'"),
    'no epoch': ((*PROGRESS, 'epoch'), GONE, "it has no 'epoch'"),
    'extra': ((*PROGRESS, 'extra'), 1, "an unknown entry 'extra'"),
    'epoch as text': ((*PROGRESS, 'epoch'), 'a', "its 'epoch'"),
    'epoch as float': ((*PROGRESS, 'epoch'), 1.0, "its 'epoch'"),
    'epoch far on': ((*PROGRESS, 'epoch'), 10**6, 'its history has 1 epochs, but 1000000'),
    'epoch before the start': ((*PROGRESS, 'epoch'), -5, "its 'epoch'"),
    'step as float': ((*PROGRESS, 'step'), 2.0, "its 'step'"),
    'step far on': ((*PROGRESS, 'step'), 8, 'at step 8 of an epoch that has 7 steps'),
    'updates': ((*PROGRESS, 'updates'), 10**400, "its 'updates'"),
    'history': ((*PROGRESS, 'history'), 7, "its 'history'"),
    'history of numbers': ((*PROGRESS, 'history'), [1], 'it has int where epoch'),
    'history of texts': ((*PROGRESS, 'history'), [{**HISTORY[0], 'train': {'loss': 'x'}}], "its 'train'"),
    'history of another epoch': ((*PROGRESS, 'history'), [{**HISTORY[0], 'epoch': 1}], 'has epoch 1 where 0 belongs'),
    'no history': ((*PROGRESS, 'history'), [], 'its history has 0 epochs, but 1'),
    'best epoch': ((*PROGRESS, 'best_epoch'), 'a', "its 'best_epoch'"),
    'best epoch to come': ((*PROGRESS, 'best_epoch'), 1, 'its best epoch is not one of the 1'),
    'best figure': ((*PROGRESS, 'best_metric'), float('nan'), "its 'best_metric'"),
    'no best figure': ((*PROGRESS, 'best_metric'), None, 'its best epoch'),
    'processes': ((*OWN, 'processes'), 5, "its 'processes'"),
    'processes as numbers': ((*OWN, 'processes'), [1], 'it has int where rng, sums belong'),
    'sums': ((*OWN, 'processes', 0, 'sums', 'loss'), 'x', "its 'sums'"),
    'generators': ((*OWN, 'processes', 0, 'rng'), {}, "its random generators cannot be loaded: it has no 'python'"),
    'generators as texts': ((*OWN, 'processes', 0, 'rng', 'python'), 'abc', 'its random generators cannot be'),
    'position of a generator': ((*OWN, 'processes', 0, 'rng', 'numpy'), POSITION, "NumPy's position is 1073741824"),
    'scheduler': ((*OWN, 'scheduler'), 7, "its 'scheduler'"),
    'no scheduler': ((*OWN, 'scheduler'), None, 'its scheduler cannot be loaded: there is none'),
    'values of the scheduler': ((*OWN, 'scheduler', 'base_values'), ['x'], 'base_values is not of type list'),
    'settings': (('args',), 7, "its 'args'"),
    'no settings': (('args',), GONE, "it has no 'args'"),
    'timms epoch': (('epoch',), 'a', "its 'epoch'"),
    'weights': (('state_dict',), 7, "its 'state_dict'"),
    'weights as texts': (('state_dict', 'fc.bias'), 'x', "its 'state_dict'"),
    'averaged weights': (('state_dict_ema',), 'x', "its 'state_dict_ema'"),
    'branches': (('task_state',), {'branches': [1]}, 'its weights cannot be loaded'),
    'optimizer': (('optimizer',), [1], "its 'optimizer'"),
    'empty optimizer': (('optimizer',), {}, "its optimizer cannot be loaded: it has no 'param_groups'"),
    'groups': (('optimizer', 'param_groups'), [1], 'its optimizer cannot be loaded'),
    'rate': (('optimizer', 'param_groups', 0, 'lr'), 'x', 'lr of a parameter group is missing or is not of type float'),
    'no rate': (('optimizer', 'param_groups', 0, 'lr'), GONE, 'lr of a parameter group is missing'),
    'moments': (('optimizer', 'state', 0), 7, 'its optimizer cannot be loaded'),
}


@functools.cache
def read_golden() -> dict:
    return read_checkpoint(GOLDEN)


def damaged(path, name: str) -> str:
    """Write the golden file with one entry changed; gives what is to be said of it."""
    where, value, says = DAMAGE[name]
    checkpoint = copy.deepcopy(read_golden())
    *outer, last = where
    inner = checkpoint
    for key in outer:
        inner = inner[key]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    torch.save(checkpoint, path)
    return says


@pytest.mark.parametrize('name', DAMAGE)
def test_resume(refused, name, monkeypatch):
    monkeypatch.setattr(untrusted, 'MOST_VALUES', 100_000)  # sooner come to than the real one
    says = damaged(refused.place / 'x.pth.tar', name)
    line = refused(*RUN, '--resume', 'x.pth.tar')
    assert says in line
    assert "'x.pth.tar'" in line
    assert len(line) < 500


def test_resume_beyond_the_end(refused):
    line = refused(*RUN, '--resume', GOLDEN, '--epochs', '1')
    assert 'it is at step 4 of epoch 2, beyond the end at --epochs 1 (give more)' in line


@pytest.fixture
def folder(refused):
    """A run folder as a killed run leaves it, without its checkpoint."""
    folder = refused.place / 'runs/tiny'
    folder.mkdir(parents=True)
    (folder / 'args.yaml').write_text(yaml.safe_dump(read_checkpoint(GOLDEN)['args']))
    return folder


@pytest.mark.parametrize(
    ('file', 'name'),
    [
        ('recovery-1-4.pth.tar', 'progress'),
        ('recovery-1-4.pth.tar', 'epoch before the start'),
        ('last.pth.tar', 'history of numbers'),
        ('model_best.pth.tar', 'best epoch'),
    ],
)
def test_run_folder(refused, folder, file, name):
    damaged(folder / file, name)
    assert refused(*RUN).endswith("no checkpoint in 'runs/tiny' can be read (--overwrite starts anew)")


def test_run_folder_whose_states_do_not_load(refused, folder):
    damaged(folder / 'recovery-1-4.pth.tar', 'rate')
    assert refused(*RUN).endswith('is not of type float (--overwrite starts anew)')


def test_resume_at_the_first_step_of_an_epoch(run_cli, tmp_path):
    """A recovery file of such a place, which a broken first loss leaves, is of no epoch's end: it names no figure."""
    checkpoint = read_checkpoint(GOLDEN)
    checkpoint['dkszoo']['progress']['step'] = 0
    checkpoint['dkszoo']['processes'][0]['sums'] = {}
    torch.save(checkpoint, tmp_path / 'recovery-1-0.pth.tar')
    code, _, err = run_cli(*RUN, '--epochs', '2', '--resume', 'recovery-1-0.pth.tar')
    assert code == 0, err
    assert 'the best is chosen among those to come' in err
