import math
import statistics

import pytest

from dkszoo.papers.stats import T975, mean_std, paired_gain, show, show_gain, table


def test_mean_and_sample_deviation():
    values = [1.0, 2.5, 4.0, 7.0]
    assert mean_std(values) == (pytest.approx(statistics.mean(values)), pytest.approx(statistics.stdev(values)))
    assert mean_std([3.0]) == (3.0, None)


def test_paired_interval_by_hand():
    # differences 1, 2, 3: mean 2, deviation 1, t(2) = 4.3027, half width 4.3027 / sqrt(3)
    mean, width = paired_gain([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert mean == 2.0
    assert width == pytest.approx(4.3027 / math.sqrt(3))
    assert paired_gain([1.0], [3.0]) == (-2.0, None)


def test_quantiles_of_students_t():
    stats = pytest.importorskip('scipy.stats')
    assert T975 == pytest.approx([stats.t.ppf(0.975, n) for n in range(1, 31)], abs=6e-5)


def test_more_than_31_runs_take_the_last_quantile():
    many = [float(i % 2) for i in range(40)]  # their deviation is sqrt(10 / 39)
    assert paired_gain(many, [0.0] * 40)[1] == pytest.approx(2.0423 * math.sqrt(10 / 39) / math.sqrt(40))


def test_show_and_table():
    assert show(26.814, 0.361) == '26.81(0.36)'
    assert show_gain([2.0], [1.0]) == '+1.00'
    assert show_gain([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]) == '+2.00 +- 2.48'
    assert table(('a', 'bb'), [('1', '2'), ('333', '4')]).splitlines() == [
        '| a   | bb |',
        '|-----|----|',
        '| 1   | 2  |',
        '| 333 | 4  |',
    ]
