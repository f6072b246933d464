"""A loss that is not finite: named, and nothing of its step is kept."""

import re

import pytest
import torch

from benchmarks.reliability.runs import FOLDER, PLAIN, differences, digest, outcome, reference
from dkszoo.data import StreamSampler
from dkszoo.engine import TrainConfig
from dkszoo.engine.checkpoint import newest_checkpoint, read_checkpoint, recovery_files
from dkszoo.engine.data import open_data
from dkszoo.engine.finite import FiniteCheck, NonFinite, can_look_later
from dkszoo.engine.world import World
from dkszoo.weights import parse_yaml


def ruin(_, result):
    result['loss'].data.fill_(float('nan'))
    result['ds'].fill_(float('inf'))


def test_names_step_term_and_samples_and_saves_what_was_before(run_cli, tmp_path, at_step):
    at_step(12, ruin)  # step 5 of epoch 2, the first of its two
    code, _, err = run_cli(*PLAIN)
    assert code == 1
    message = err.splitlines()[-1]
    assert message.startswith('dkszoo: error: epoch 2, step 5: term ds is not finite for samples ')
    assert '--skip-nonfinite N' in message
    assert message.partition('samples ')[2].partition(' (')[0].split(', ')[8:] == ['...']
    (listed,) = re.findall(r'samples of step 5: \[(.*)\]', err)
    config, data = open_data(TrainConfig.from_dict(parse_yaml((tmp_path / FOLDER / 'args.yaml').read_text())))
    drawn = StreamSampler(len(data.train), config.batch_size, config.seed).indices(1, 4)
    assert listed == ', '.join(str(data.train.indices[i]) for i in drawn)  # as the whole training set numbers them
    assert recovery_files(tmp_path / FOLDER)[0].name == 'recovery-1-4.pth.tar'
    assert run_cli(*PLAIN)[0] == 0  # the same step again, finite this time
    assert not differences(PLAIN, tmp_path)


def test_within_an_accumulation_the_whole_update_goes_back(run_cli, tmp_path, at_step):
    at_step(13, ruin)  # step 6: step 5 has gradients and running statistics that no file holds
    assert run_cli(*PLAIN)[0] == 1
    assert recovery_files(tmp_path / FOLDER)[0].name == 'recovery-1-4.pth.tar'
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)


def test_what_is_saved_is_what_was_before(run_cli, tmp_path, at_step):
    """The recovery file of the failure is the one an unbroken run writes at that step, but for its time."""
    argv = (*PLAIN, '--epochs', '1', '--grad-accum-steps', '1', '--recovery-interval', '3')
    at_step(4, ruin)
    assert run_cli(*argv)[0] == 1
    (path,) = recovery_files(tmp_path / FOLDER)
    assert path.name == 'recovery-0-3.pth.tar'
    failed = read_checkpoint(path)
    path.unlink()
    at_step(4, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_cli(*argv, '--overwrite')[0] == 130
    unbroken = read_checkpoint(path)
    unbroken['args']['overwrite'] = False
    for checkpoint in (failed, unbroken):
        checkpoint['dkszoo']['progress'].pop('seconds')
    assert digest(unbroken) == digest(failed)


def test_some_may_be_passed_over(run_cli, tmp_path, at_step):
    def ruin_twice(stepper, result):
        ruin(stepper, result)
        at_step(2, ruin)

    at_step(3, ruin_twice)
    code, _, err = run_cli(*PLAIN, '--skip-nonfinite', '2')
    assert code == 0, err
    assert err.count('step skipped') == 2
    record = outcome(tmp_path)
    assert record['weights_sha256'] != reference(PLAIN)[0]['weights_sha256']
    assert read_checkpoint(tmp_path / FOLDER / 'last.pth.tar')['dkszoo']['progress']['skipped'] == 2
    # one more than is allowed; allowing more is no other run, so the advice can be followed
    at_step(3, ruin)
    argv = (*PLAIN, '--experiment', 'less')
    assert run_cli(*argv)[0] == 1
    at_step(1, ruin)
    code, _, err = run_cli(*argv, '--skip-nonfinite', '1')
    assert code == 0, err
    assert err.count('step skipped') == 1


def test_a_step_is_not_counted_again_when_its_update_is_repeated(run_cli, tmp_path, at_step):
    def ruin_both(stepper, result):
        ruin(stepper, result)
        at_step(1, ruin)

    at_step(3, ruin_both)  # both steps of the second update
    assert run_cli(*PLAIN, '--skip-nonfinite', '1')[0] == 1
    at_step(1, ruin_both)
    code, _, err = run_cli(*PLAIN, '--skip-nonfinite', '2')
    assert code == 0, err
    assert err.count('step skipped') == 2
    assert read_checkpoint(tmp_path / FOLDER / 'last.pth.tar')['dkszoo']['progress']['skipped'] == 2


def test_an_epoch_of_which_nothing_is_left(run_cli, tmp_path):
    argv = (*PLAIN, '--method', 'ds', '--alpha', '1e39', '--skip-nonfinite', '100', '--log-interval', '1')
    code, _, err = run_cli(*argv)
    assert code == 1
    assert err.splitlines()[-1].startswith('dkszoo: error: every step of epoch 1 was skipped')


@pytest.mark.parametrize(('interval', 'message'), [('2', 'the weights are no longer finite'), ('9', 'and neither are')])
def test_weights_that_are_ruined_are_not_saved(run_cli, tmp_path, at_step, interval, message):
    def ruin_weights(stepper, _):
        next(stepper.setup.task.parameters()).data.fill_(float('inf'))

    at_step(11, ruin_weights)  # step 4 of epoch 2 updates; a save or else the next forward pass notices
    code, _, err = run_cli(*PLAIN, '--skip-nonfinite', '100', '--recovery-interval', interval)
    assert code == 1
    assert message in err.splitlines()[-1]
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)


# -- looked at later, as on an accelerator -----------------------------------------------------------------------------


@pytest.fixture
def later(monkeypatch):
    monkeypatch.setattr('dkszoo.engine.step.can_look_later', lambda *_: True)


def poison(stepper, result):
    """A broken loss, and weights that have followed it: all the steps after it are broken, too, in every term."""
    ruin(stepper, result)
    next(stepper.setup.task.parameters()).data.fill_(float('nan'))


def test_when_to_look_later():
    cpu, cuda = torch.device('cpu'), torch.device('cuda')
    assert can_look_later(TrainConfig(), cuda)
    assert not can_look_later(TrainConfig(), cpu)
    assert not can_look_later(TrainConfig(skip_nonfinite=1), cuda)


@pytest.mark.parametrize(
    ('number', 'options', 'steps', 'newest'),
    [
        (12, (), 6, 'recovery-1-4.pth.tar'),  # found when the next file was to be written
        pytest.param(  # at the end of the epoch
            *(12, ('--recovery-interval', '9'), 7, 'last.pth.tar'), marks=pytest.mark.slow
        ),
        (3, ('--recovery-interval', '9', '--log-interval', '5'), 5, 'recovery-0-0.pth.tar'),  # at the next line
    ],
)
def test_found_later(run_cli, tmp_path, monkeypatch, at_step, later, number, options, steps, newest):
    argv, done = (*PLAIN, *options), []
    with monkeypatch.context() as patch:
        plain = FiniteCheck.note
        patch.setattr(FiniteCheck, 'note', lambda self, step, result: done.append(step) or plain(self, step, result))
        at_step(number, poison)
        code, _, err = run_cli(*argv)
    assert code == 1
    assert done[-1] == steps - 1
    epoch, step = divmod(number - 1, 7)
    message = err.splitlines()[-1]
    assert message.startswith(f'dkszoo: error: epoch {epoch + 1}, step {step + 1}: term ds is not finite for samples ')
    assert '--skip-nonfinite N' in message
    path, checkpoint = newest_checkpoint(tmp_path / FOLDER, pytest.fail)
    assert path.name == newest
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())
    assert len(message.partition('samples ')[2].partition(' (')[0].split(', ')) == 9

    # the same command again, looking at once: the same step and samples
    monkeypatch.setattr('dkszoo.engine.step.can_look_later', can_look_later)
    start = checkpoint['dkszoo']['progress']
    at_step(number - 7 * start['epoch'] - start['step'], ruin)
    assert run_cli(*argv)[2].splitlines()[-1] == message
    assert run_cli(*argv)[0] == 0
    assert not differences(argv, tmp_path)


def test_a_run_looked_at_later_is_the_same(run_cli, tmp_path, later):
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)


def test_a_sum_of_finite_terms_may_be_broken():
    check = FiniteCheck(World(torch.device('cpu')), later=False)
    with pytest.raises(NonFinite) as caught:
        check.note(3, {'loss': torch.tensor(float('inf')), 'ce': torch.tensor(3e38), 'ds': torch.tensor(3e38)})
    assert (caught.value.step, caught.value.names) == (3, ['loss'])


class OtherProcess(World):
    """This process beside one in which the loss of the second of the noted steps was broken."""

    def largest(self, *numbers):
        return [max(number, 2) for number in numbers]

    def gather(self, value):
        return [value, ['synergy']]


@pytest.mark.parametrize(('broken', 'step', 'names'), [(5, 5, ['ce', 'synergy']), (7, 6, ['synergy'])])
def test_the_first_broken_loss_of_any_process(broken, step, names):
    check = FiniteCheck(OtherProcess(torch.device('cpu')), later=True)
    for number in (5, 6, 7):
        value = torch.tensor(float('nan') if number == broken else 1.0)
        check.note(number, {'loss': value, 'output': torch.zeros(2, 3), 'ce': value, 'ds': torch.tensor(1.0)})
    with pytest.raises(NonFinite) as caught:
        check.look()
    assert (caught.value.step, caught.value.names) == (step, names)
    check.look()  # nothing is left to look at
