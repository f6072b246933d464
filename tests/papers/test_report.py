"""The tables and curves of finished runs."""

from dkszoo.cli.reproduce import read_flags
from dkszoo.papers.figure import mean_errors
from dkszoo.papers.grid import Result
from dkszoo.papers.records import list_tables, read_table
from dkszoo.papers.report import compare_methods, gain, measure, report
from dkszoo.papers.reproduce import plan_table


def result(last: float, best: float | None = None, seed: int = 0, seconds: float = 10.0) -> Result:
    values = {'last': last, 'best': last if best is None else best}
    return Result({'seed': seed, 'result': {k: {'top1': v, 'top5': 99.0} for k, v in values.items()}}, seconds, None)


def test_gains_of_the_last_epoch_and_of_the_best():
    text = compare_methods({'ds': [result(70, 71)], 'dks': [result(73, 72)]})
    assert [cell.strip() for cell in text.splitlines()[-1].split('|')[5:7]] == ['+3.00', '+1.00']


def test_a_gain_of_fewer_pairs_than_runs_says_so():
    runs = [result(81), result(95, seed=1), result(95, seed=2)]
    text = compare_methods({'baseline': [result(80)], 'dks': runs})
    assert [cell.strip() for cell in text.splitlines()[-1].split('|')[5:7]] == ['+1.00 (1 of 3)'] * 2
    text = compare_methods({'baseline': runs, 'dks': [result(82)]})
    assert [cell.strip() for cell in text.splitlines()[-1].split('|')[5:7]] == ['+1.00 (1 of 3)'] * 2


def test_a_temperature_is_chosen_on_the_seeds_that_all_have():
    record = next(r for r in read_table('dks-table6') if 'T' in r.arguments)
    (plan,) = plan_table([record], 'small', 2, read_flags, {}, False)
    runs = {cell.name: result(60, 60 + cell.settings['seed']) for cells in plan.cells for cell in cells}
    first, second = plan.cells[1]
    del runs[first.name]  # T = 2 has its better seed alone
    assert measure(plan, runs).temperature == 1
    runs[second.name] = result(60, 62)
    assert measure(plan, runs).temperature == 2


def test_gains_are_paired_by_seed():
    record = read_table('dks-table1')[2]
    base, runs = ({seed: result(0, top1 + seed, seed) for seed in range(3)} for top1 in (70, 72))
    assert gain(record, runs, record, base, 'best') == '+2.00 +- 0.00'


def test_the_best_temperature_stands_in_the_table():
    record = next(r for name in list_tables() for r in read_table(name) if 'T' in r.arguments)
    (plan,) = plan_table([record], 'small', 1, read_flags, {}, False)
    runs = {cells[0].name: result(60, 60 + i % 3) for i, cells in enumerate(plan.cells)}
    assert measure(plan, runs).temperature == 5


def test_a_temperature_without_a_finished_run_is_passed_over():
    record = next(r for r in read_table('dks-table6') if 'T' in r.arguments)
    (plan,) = plan_table([record], 'small', 1, read_flags, {}, False)
    runs = {cells[0].name: result(60, 62 - i) for i, cells in enumerate(plan.cells[2:])}
    assert measure(plan, runs).temperature == 5


def test_all_figures_of_a_setting_have_the_temperature_of_its_top1():
    records = [r for r in read_table('dks-table6') if r.row.startswith('kd_c1_ds')]
    assert [r.metric for r in records] == ['top1_err', 'top5_err']
    plans = plan_table(records, 'small', 1, read_flags, {}, False)
    cells = [group[0].name for group in plans[0].cells]
    runs = {name: result(60, 60 + i % 3) for i, name in enumerate(cells)}
    for i, name in enumerate(cells):
        runs[name].record['result']['best']['top5'] = 90.0 + i  # by itself the last would be the best
    assert [measure(plan, runs).temperature for plan in plans] == [5, 5]


def test_nobody_takes_the_place_of_a_baseline_that_failed():
    def gains(text):
        return [line.split('|')[-5:-1] for line in text.splitlines()[2:]]

    text = compare_methods({'baseline': [], 'ds': [result(71)], 'dks': [result(75)]})
    assert [[cell.strip() for cell in row] for row in gains(text)] == [
        ['71.00', '', '', '10 s'],
        ['75.00', '', '', '10 s'],
    ]
    text = compare_methods({'ds': [result(71)], 'dks': [result(75)]})
    assert '+4.00' in text
    records = [r for r in read_table('dks-table1') if r.group == 'resnet32']
    plans = plan_table(records, 'small', 1, read_flags, {}, False)
    runs = {plan.cells[0][0].name: result(70.0 + i) for i, plan in enumerate(plans)}
    assert '+1.00' in report(plans, runs)
    del runs[plans[0].cells[0][0].name]
    assert '+1.00' not in report(plans, runs)


def test_a_row_of_the_table_by_hand():
    """Figures are errors, as the paper's are; gains are in accuracy."""
    records = [r for r in read_table('dks-table1') if r.group == 'resnet32'][:3:2]
    plans = plan_table(records, 'small', 1, read_flags, {})
    (base,), (dks,) = plans[0].cells[0], plans[1].cells[0]
    (longer,) = plans[1].equal_time
    runs = {base.name: result(70, 71), dks.name: result(73, 75, seconds=30.0), longer.name: result(71, 72.5)}
    row = [cell.strip() for cell in report(plans, runs).splitlines()[3].split('|')[1:-1]]
    assert row[2:3] + row[5:] == ['top-1 error', '1', '27.00', '25.00', '+3.00', '+4.00', '+2.00', '+2.50', '30 s']


def test_each_row_is_compared_by_its_own_figure():
    """The second branch of DKS with the only one of a network that has no other."""
    plans = plan_table([r for r in read_table('dks-table5') if r.group == 'c2'], 'small', 1, read_flags, {})
    names = [plan.cells[0][0].name for plan in plans] + [cell.name for cell in plans[1].equal_time]
    figures = [{'branch0_top1': 60.0}, {'branch0_top1': 1.0, 'branch1_top1': 64.0}, {'branch0_top1': 62.0}]
    runs = {
        name: Result({'seed': 0, 'result': {'last': found, 'best': found}}, 1.0, None)
        for name, found in zip(names, figures, strict=True)
    }
    row = [cell.strip() for cell in report(plans, runs).splitlines()[3].split('|')[1:-1]]
    assert row[6:-1] == ['36.00', '36.00', '+4.00', '+4.00', '+2.00', '+2.00']


def test_a_figure_in_words():
    figures = {r.metric: r.figure for name in ('dks-table5', 'dks-text') for r in read_table(name)}
    assert figures['top1'] == 'top-1 accuracy'
    assert figures['branch1_top5_err'] == 'top-5 error, branch 1'


def test_times_are_said_as_multiples_of_the_first():
    text = compare_methods({'ds': [result(70)], 'dks': [result(73, seconds=20.0)]})
    assert text.splitlines()[-1].split('|')[-2].strip() == '20 s (2.00x)'


def test_curves_are_of_errors_and_means_over_runs(tmp_path):
    for name, values in (('a', (90, 95)), ('b', (80, 85))):
        (tmp_path / name).mkdir()
        rows = [f'{epoch},,{value}\n' for epoch, value in enumerate(values)]
        (tmp_path / name / 'summary.csv').write_text(''.join(['epoch,eval_top1,eval_test_top1\n', *rows]))
    assert mean_errors([tmp_path / 'a', tmp_path / 'b'], 'top1') == [15.0, 10.0]
    assert mean_errors([], 'top1') == []


def test_curves_of_validation(tmp_path):
    (tmp_path / 'summary.csv').write_text('epoch,eval_top1\n0,90\n')
    assert mean_errors([tmp_path], 'top1') == [10.0]


def test_times_are_means_over_the_runs():
    times = {'ds': (10.0, 30.0), 'dks': (20.0, 40.0)}
    runs = {method: [result(70, seed=i, seconds=s) for i, s in enumerate(of)] for method, of in times.items()}
    assert [line.split('|')[-2].strip() for line in compare_methods(runs).splitlines()[2:]] == [
        '20 s (1.00x)',
        '30 s (1.50x)',
    ]
