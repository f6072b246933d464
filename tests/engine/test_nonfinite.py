"""A loss that is not finite: named, and nothing of its step is kept."""

import pytest

from benchmarks.reliability.runs import FOLDER, PLAIN, differences, digest, outcome, reference
from dkszoo.engine.checkpoint import read_checkpoint, recovery_files


def ruin(_, result):
    result['loss'].data.fill_(float('nan'))
    result['ds'].fill_(float('inf'))


def test_names_step_term_and_samples_and_saves_what_was_before(run_cli, tmp_path, at_step):
    at_step(12, ruin)  # step 5 of epoch 2, the first of its two
    code, _, err = run_cli(*PLAIN)
    assert code == 1
    message = err.splitlines()[-1]
    assert message.startswith('dkszoo: error: epoch 2, step 5: term ds is not finite for samples [')
    assert '--skip-nonfinite N' in message
    assert len(message.partition('[')[2].partition(']')[0].split(',')) == 16
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
    """The recovery file of the failure is the one an unbroken run writes at that step."""
    argv = (*PLAIN, '--epochs', '1', '--grad-accum-steps', '1', '--recovery-interval', '3')
    at_step(4, ruin)
    assert run_cli(*argv)[0] == 1
    (path,) = recovery_files(tmp_path / FOLDER)
    assert path.name == 'recovery-0-3.pth.tar'
    failed = digest(read_checkpoint(path))
    path.unlink()
    at_step(4, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_cli(*argv, '--overwrite')[0] == 130
    unbroken = read_checkpoint(path)
    unbroken['args']['overwrite'] = False
    assert digest(unbroken) == failed


def test_some_may_be_passed_over(run_cli, tmp_path, at_step):
    def ruin_twice(stepper, result):
        ruin(stepper, result)
        at_step(2, ruin)

    at_step(3, ruin_twice)
    code, _, err = run_cli(*PLAIN, '--skip-nonfinite', '2')
    assert code == 0, err
    assert err.count('step passed over') == 2
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
    assert err.count('step passed over') == 1


@pytest.mark.parametrize(('interval', 'message'), [('2', 'the weights are not finite any more'), ('9', 'nor are the')])
def test_weights_that_are_ruined_are_not_saved(run_cli, tmp_path, at_step, interval, message):
    def ruin_weights(stepper, _):
        next(stepper.setup.task.parameters()).data.fill_(float('inf'))

    at_step(11, ruin_weights)  # step 4 of epoch 2 updates; a save or else the next forward pass notices
    code, _, err = run_cli(*PLAIN, '--skip-nonfinite', '100', '--recovery-interval', interval)
    assert code == 1
    assert message in err.splitlines()[-1]
    assert run_cli(*PLAIN)[0] == 0
    assert not differences(PLAIN, tmp_path)
