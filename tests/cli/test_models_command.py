"""`dkszoo models`, and the page that shows its numbers."""

import csv
import io
import re
from pathlib import Path

import pytest

import dkszoo
from dkszoo.branches.attach import empty_model
from dkszoo.cli.models import sizes

PAGE = (Path(__file__).parents[2] / 'docs' / 'models.md').read_text(encoding='utf-8')
ROWS = {name: numbers for name, *numbers in re.findall(r'^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|$', PAGE, re.MULTILINE)}


def test_models_lists_sizes(run_cli):
    code, out, _ = run_cli('models', 'wrn16_2', '--csv')
    assert code == 0
    (row,) = csv.DictReader(io.StringIO(out))
    assert row['name'] == 'cifar_wrn16_2'
    assert (int(row['num_params']), int(row['macs'])) == (703_284, 101_118_464)  # the fixtures' count
    assert row['input_size'] == '3x32x32'
    assert row['designs'].split()[0] == 'dks'
    code, out, _ = run_cli('models', 'cifar_wrn16_*')
    assert [line.split()[0] for line in out.splitlines()[1:]] == ['cifar_wrn16_1', 'cifar_wrn16_2']
    assert '703,284' in out
    (row,) = run_cli('models', 'cifar_resnet20')[1].splitlines()[1:]
    assert row.split()[:4] == ['cifar_resnet20', '278,324', '40,818,944', '3x32x32']
    assert '; base_fashion_mnist, dks_fashion_mnist' in row
    for pattern in ('cifar_resnet?', 'cifar_resnet[8]'):
        (row,) = run_cli('models', pattern)[1].splitlines()[1:]
        assert row.split()[0] == 'cifar_resnet8'
        assert ';' not in row  # the tags of cifar_resnet8x4 are not its own
    code, _, err = run_cli('models', 'nonsense')
    assert (code, "no model of dkszoo fits 'nonsense'" in err) == (2, True)
    assert err.endswith('(dkszoo models lists all)\n')
    assert run_cli('models', 'vit_tiny_patch16_224')[2].endswith(
        "(dkszoo cost vit_tiny_patch16_224 has the figures of timm's)\n"
    )


def test_every_model_has_its_row():
    assert sorted(ROWS) == sorted(dkszoo.list_models())


@pytest.mark.parametrize('name', ROWS)
def test_rows_are_what_the_command_prints(name):
    found = sizes(empty_model(name))
    assert ROWS[name] == [f'{found["num_params"]:,}', f'{found["macs"]:,}']
    assert found['input_size'] == ('3x224x224' if name.startswith('dks_') else '3x32x32')
