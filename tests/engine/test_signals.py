"""Signals end a run in order, whatever it is doing."""

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks.reliability.runs import PLAIN, differences, wait
from benchmarks.reliability.signals import signals
from dkszoo.cli.grids import until_stopped
from dkszoo.engine import run
from dkszoo.engine.keeper import Keeper
from dkszoo.engine.signals import SIGNALS, Stopped, StopRequest, batches_of, hidden_signals, shut_down

BUSY = 120.0  # seconds: on an idle machine it takes one, on a busy one nobody knows


def test_a_signal_in_training():
    assert signals((signal.SIGTERM,), ('training',), BUSY)


def test_a_signal_before_the_first_step(run_cli, tmp_path, monkeypatch):
    build = run.build
    monkeypatch.setattr(run, 'build', lambda *args: os.kill(os.getpid(), signal.SIGTERM) or build(*args))
    assert run_cli(*PLAIN)[0] == 128 + signal.SIGTERM
    assert not (tmp_path / 'runs').exists()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_signal_that_python_dropped_ends_the_final_test(run_cli, tmp_path, monkeypatch):
    """As it drops all that is raised while an object is deleted."""

    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # where the handler runs

    def loaded(self, name):
        load(self, name)
        if name == 'last':
            Deleted()

    load = Keeper.load_weights
    monkeypatch.setattr(Keeper, 'load_weights', loaded)
    code, _, err = run_cli(*PLAIN)
    assert code == 128 + signal.SIGTERM
    assert 'stopped by SIGTERM' in err
    monkeypatch.undo()
    assert run_cli(*PLAIN)[0] == 0


@pytest.mark.slow
def test_all_signals_in_every_phase():
    assert signals(limit=BUSY)


def send_and_wait(signum: int, noted: list) -> None:
    os.kill(os.getpid(), signum)
    noted.append(signum)


def wait_no_more(stop: StopRequest, signum: int, noted: list) -> None:
    with stop.deferred():
        pass
    send_and_wait(signum, noted)


@pytest.mark.parametrize('signum', SIGNALS)
def test_raises_at_once_or_waits(signum):
    before, noted = signal.getsignal(signum), []
    with StopRequest(), pytest.raises(Stopped) as caught:
        send_and_wait(signum, noted)
    assert caught.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is before
    assert not noted
    with StopRequest() as stop, pytest.raises(Stopped), stop.deferred():
        send_and_wait(signum, noted)
    assert noted == [signum] == [stop.signum]
    with StopRequest() as stop, pytest.raises(Stopped):
        wait_no_more(stop, signum, noted)
    assert noted == [signum]


class Batches:
    ended = False

    def __iter__(self):
        return self

    def __next__(self):
        return 7

    def _shutdown_workers(self):
        self.ended = True


def test_loading_processes_are_ended_after_an_error_alone():
    whole, broken = Batches(), Batches()
    with batches_of(whole) as batches:
        assert next(batches) == 7
    with pytest.raises(Stopped), batches_of(broken):
        raise Stopped(signal.SIGTERM)
    assert (whole.ended, broken.ended) == (False, True)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # torch's iterator is half made
def test_a_loading_process_that_does_not_start_leaves_only_what_was_there(monkeypatch):
    plain, started = multiprocessing.process.BaseProcess.start, []

    def start(process):
        if started:
            raise OSError(errno.EMFILE, 'Too many open files')
        plain(process)
        started.append(process)

    other = multiprocessing.get_context('fork').Process(target=time.sleep, args=(BUSY,), daemon=True)
    other.start()
    monkeypatch.setattr(multiprocessing.process.BaseProcess, 'start', start)
    loader = torch.utils.data.DataLoader([1, 2, 3], num_workers=2, persistent_workers=True)
    with pytest.raises(OSError, match='Too many'), batches_of(loader):
        pytest.fail('started')
    started[0].join(BUSY)
    assert multiprocessing.active_children() == [other]
    other.kill()
    other.join(BUSY)


def test_a_loading_process_that_is_stuck_is_killed():
    with hidden_signals():
        stuck = multiprocessing.get_context('fork').Process(target=time.sleep, args=(BUSY,), daemon=True)
        stuck.start()
    shut_down(SimpleNamespace(_workers=[stuck]))
    stuck.join(BUSY / 2)
    assert stuck.exitcode == -signal.SIGKILL


def test_a_signal_while_loading_processes_start_ends_them(monkeypatch):
    @contextlib.contextmanager
    def hidden():
        yield
        raise Stopped(signal.SIGTERM)  # as where the main thread, which hides it, is the one that gets it

    monkeypatch.setattr('dkszoo.engine.signals.hidden_signals', hidden)
    loader = Batches()
    with pytest.raises(Stopped), batches_of(loader):
        pytest.fail('started')
    assert loader.ended


def test_a_signal_at_the_very_end_is_too_late(monkeypatch):
    plain, sent = signal.signal, []

    def restore(signum, handler):
        if not sent:
            sent.append(signum)
            os.kill(os.getpid(), signum)
            time.sleep(0.1)
        return plain(signum, handler)

    def work() -> int:
        monkeypatch.setattr(signal, 'signal', restore)
        return 7

    assert until_stopped(work) == 7
    assert sent


def fork(work) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(99)
    return wait(pid)


def test_a_second_signal_ends_at_once(monkeypatch):
    def work():
        with StopRequest() as stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    assert fork(work) == 130


@pytest.mark.parametrize(('name', 'value'), [('WORLD_SIZE', '2'), ('DKSZOO_GRID', '1')])
def test_a_signal_that_is_passed_on_is_no_second_one(monkeypatch, name, value):
    """torchrun and grids pass on what a terminal, or the system, has sent to all already."""
    monkeypatch.setenv(name, value)

    def passed_on():
        with StopRequest() as stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)

    assert fork(passed_on) == 7

    def later():
        with StopRequest() as stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            stop.learn(signal.SIGINT)  # the processes agree on it
            stop.noted_at -= 3
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    assert fork(later) == 143

    def learnt():
        with StopRequest() as stop, stop.deferred():
            stop.learn(signal.SIGINT)
            stop.noted_at -= 3
            os.kill(os.getpid(), signal.SIGINT)  # its own, of which it has heard from another process
            os._exit(7 if stop.noted_at < time.monotonic() else 8)

    assert fork(learnt) == 7


def test_hidden_signals_are_delivered_later_and_not_to_children():
    def start_and_send(stop) -> None:
        with hidden_signals():
            command = [sys.executable, '-c', 'import time; time.sleep(1); print("alive")']
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            for pid in (os.getpid(), children[0].pid):
                os.kill(pid, signal.SIGTERM)
            assert stop.signum is None
        time.sleep(5)  # where another thread has got it this one hears of it later

    children = []
    with StopRequest() as stop, pytest.raises(Stopped):
        start_and_send(stop)
    assert children[0].communicate()[0] == b'alive\n'


UNFORKED = """
import multiprocessing.forkserver, signal
from dkszoo.engine.signals import SIGNALS, hidden_signals

if __name__ == '__main__':
    multiprocessing.set_start_method('forkserver')
    with hidden_signals():
        multiprocessing.Queue()
        assert set(SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print(multiprocessing.forkserver._forkserver._preload_modules)
"""


def test_what_loading_processes_need_that_are_not_forked(tmp_path, environment):
    """No signal while they start, though Python's tracker of resources starts with them; dkszoo, imported once."""
    (tmp_path / 'unforked.py').write_text(UNFORKED)
    command = [sys.executable, tmp_path / 'unforked.py']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUSY)
    assert (done.stdout, done.stderr) == ("['__main__', 'dkszoo']\n", '')


@pytest.mark.slow
def test_a_real_process_group_with_loading_processes(tmp_path, environment):
    """As from a terminal: the interpreter's own end must not hang on its loading processes either."""
    argv = (*PLAIN, '--loader', 'timm', '--workers', '2', '--epochs', '40')
    command = [sys.executable, '-m', 'dkszoo', *argv]
    for signum in SIGNALS:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        for line in process.stderr:
            if b'epoch 2:' in line or b'resumed' in line:
                break
        time.sleep(1)
        os.killpg(process.pid, signum)
        assert process.wait(BUSY) == 128 + signum
        process.stderr.close()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not differences(argv, tmp_path)
