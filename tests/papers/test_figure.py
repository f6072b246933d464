"""The curves of a table: a panel a group, a line a row."""

import pytest
from matplotlib.figure import Figure

from dkszoo.cli.reproduce import read_flags
from dkszoo.papers.figure import draw_groups, mean_errors
from dkszoo.papers.grid import Result
from dkszoo.papers.records import read_table
from dkszoo.papers.reproduce import plan_table


@pytest.mark.parametrize(('best', 'scale'), [(95.0, 'log'), (100.0, 'linear')])
def test_lines_are_the_rows_and_teachers_have_none(tmp_path, monkeypatch, best, scale):
    drawn, plain = [], Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **how: drawn.append(self) or plain(self, *args, **how))
    records = [r for r in read_table('dskd-table1') if r.row.startswith('vgg13-vgg8-')][:4]
    plans = plan_table(records, 'small', 1, read_flags, {}, equal_time=False)
    cells = [plan.cells[0][0] for plan in plans]
    result = {which: {'top1': best} for which in ('last', 'best')}
    (tmp_path / 'summary.csv').write_text(f'epoch,eval_top1\n0,80\n1,{best}\n')
    runs = {cell.name: Result({'result': result}, 1.0, tmp_path) for cell in cells[:3]}  # the fourth has failed
    draw_groups(plans, runs, tmp_path / 'x.png')
    (axes,) = drawn[0].axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines == dict.fromkeys(('baseline', 'kd'), ([1, 2], [20.0, 100 - best]))
    assert axes.get_yscale() == scale


def test_matplotlib_settings_that_fail_leave_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError('latex could not be found')

    monkeypatch.setattr(Figure, 'savefig', fail)
    (plan,) = plan_table(read_table('dks-table1')[:1], 'small', 1, read_flags, {}, equal_time=False)
    result = {which: {'top1': 90.0} for which in ('last', 'best')}
    (tmp_path / 'summary.csv').write_text('epoch,eval_top1\n0,80\n')
    draw_groups([plan], {plan.cells[0][0].name: Result({'result': result}, 1.0, tmp_path)}, tmp_path / 'x.png')
    assert caplog.messages == ['no x.png: latex could not be found']
    assert not (tmp_path / 'x.png').exists()


def test_without_a_finished_run_there_is_no_figure(tmp_path):
    draw_groups(plan_table(read_table('dks-table1')[:1], 'small', 1, read_flags, {}), {}, tmp_path / 'x.png')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'text', ['epoch,top1\n0,80\n', 'epoch,eval_top1\n0,x\n', 'epoch,eval_top1,eval_test_top1\n0\n']
)
def test_a_damaged_summary_is_named(tmp_path, text):
    (tmp_path / 'summary.csv').write_text(text)
    with pytest.raises(ValueError, match=r"summary\.csv' is damaged"):
        mean_errors([tmp_path], 'top1')
