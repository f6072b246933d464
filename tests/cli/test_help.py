"""What the commands say of themselves."""

import errno
import io
import os
import pty
import subprocess
import sys

import pytest

from dkszoo.cli import main
from dkszoo.cli.main import COMMANDS


@pytest.mark.parametrize('command', ['train', 'validate'])
def test_commands_go_by_the_name_they_were_called_by(run_cli, monkeypatch, command):
    for program, name in (('/usr/bin/dkszoo', f'dkszoo {command}'), (f'/home/me/{command}.py', f'{command}.py')):
        monkeypatch.setattr(sys, 'argv', [program])
        assert run_cli(command, '--help')[1].startswith(f'usage: {name} [-h]')
        assert f'see {name} --help)' in run_cli(command, '--nonsense')[2]


@pytest.mark.parametrize('command', [(), *((name,) for name in COMMANDS)])
def test_every_command_has_help(run_cli, command):
    code, out, _ = run_cli(*command, '--help')
    assert (code, 'usage: ' in out) == (0, True)


def test_lists_are_shown_as_lists(run_cli):
    shown = run_cli('train', '--help')[1]
    for text in ('--taps T [T ...]', '--alpha A [A ...]', '--decay-milestones E [E ...]', '--mean X [X ...]'):
        assert f'  {text}' in shown


@pytest.mark.parametrize(
    ('command', 'says'),
    [
        ('compare', ['baseline, ds, dks, kd, ', 'recipe (dks_densenet, ', 'go to runs/compare-NAME']),
        ('reproduce', ['small: ', 'medium: ', "full: the paper's networks", 'go to runs/reproduce-BUDGET']),
        ('train', ['recipe (dks_densenet, ', 'quickstart) or YAML file']),
        ('bench', ['recipe whose hours to predict (dks_densenet, ']),
    ],
)
def test_values_and_places_are_explained(run_cli, command, says):
    shown = ' '.join(run_cli(command, '--help')[1].split())
    for text in says:
        assert text in shown


def test_a_reader_that_has_enough_is_no_error(environment):
    command = f'{sys.executable} -m dkszoo models | head -n 1'
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith('name')
    assert done.stderr == ''


def test_lines_for_a_terminal_that_is_gone_are_dropped():
    terminal, ours = pty.openpty()
    with open(ours, 'w') as file:
        os.close(terminal)
        main.tell('one', file)
        main.tell('two', file)
    with open('/dev/full', 'wb', buffering=0) as full, pytest.raises(OSError, match='No space'):
        main.tell('one', io.TextIOWrapper(full, write_through=True))


def test_control_characters_are_escaped(capsys):
    """Names in files may have them; a terminal would obey."""
    main.tell('a\x1b]0;owned\x07\r\x9bb\tc\n\u3000d')
    assert capsys.readouterr().out == 'a\\x1b]0;owned\\x07\\r\\x9bb\tc\n\u3000d\n'


def test_an_error_is_one_line_unless_more_is_asked_for(capsys, monkeypatch):
    error = ValueError('two\n  lines')
    assert main.fail(error, 2, 'dkszoo cost') == 2
    line = 'dkszoo: error: two lines (see dkszoo cost --help)\n'
    assert capsys.readouterr().err == line
    monkeypatch.setenv('DKSZOO_DEBUG', '1')
    main.fail(error, 2, 'dkszoo cost')
    assert capsys.readouterr().err == f'ValueError: two\n  lines\n{line}'


class Pipe(io.StringIO):
    """Standard output whose reader is gone; where it is buffered, only a flush notices."""

    def __init__(self, file, buffered: bool):
        super().__init__()
        self.fileno = file.fileno
        for name in ('flush',) if buffered else ('flush', 'write'):
            setattr(self, name, self.fail)

    def fail(self, *_):
        raise BrokenPipeError(errno.EPIPE, 'Broken pipe')


@pytest.mark.parametrize('buffered', [False, True])
def test_a_run_whose_output_nobody_reads_is_exported_all_the_same(tmp_path, monkeypatch, capsys, buffered):
    monkeypatch.chdir(tmp_path)
    argv = ('train', '--model', 'cifar_resnet8', '--method', 'baseline', '--epochs', '1', '--train-num-samples', '20')
    with open('sink', 'w') as file:
        monkeypatch.setattr(sys, 'stdout', Pipe(file, buffered))
        assert main.main([*argv, '--device', 'cpu', '--export', 'net.safetensors']) == 141
    assert (tmp_path / 'net.safetensors').exists()
    assert 'error' not in capsys.readouterr().err


def test_a_command_without_an_output(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', None)
    assert main.main(['models', 'cifar_resnet8']) == 0


def test_what_the_output_cannot_encode_is_no_error(monkeypatch):
    monkeypatch.setattr('dkszoo.cli.models.main', lambda _: print('日本') or 0)
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), 'cp1252', newline='\n'))
    assert main.main(['models']) == 0
    assert sys.stdout.buffer.getvalue() == rb'\u65e5\u672c' + b'\n'


def test_a_command_broken_off_says_nothing(run_cli, monkeypatch):
    monkeypatch.setattr('dkszoo.cli.models.main', lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_cli('models') == (130, '', '')
