"""benchmarks/lengths.py: gains at equal epochs and at equal time, from the files of finished runs."""

import json

import pytest

from benchmarks.lengths import Point, at_time, draw, read_points, report


def finish(folder, method: str, epochs: int, seed: int, error: float, seconds: float) -> None:
    run = folder / f'{method}-{epochs}-{seed}'
    run.mkdir()
    record = {
        'settings': {'method': method, 'epochs': epochs},
        **{'seed': seed, 'threads': 1, 'best_on': 'val', 'weights_sha256': ''},
        'result': {'best_epoch': 0, 'last': {'top1': 100 - error, 'top5': 100}, 'best': {'top1': 0.0, 'top5': 0.0}},
    }
    (run / 'run.json').write_text(json.dumps(record))
    quiet = {'seconds': {'train': seconds / epochs, 'evaluate': 1.0}}
    busy = {'seconds': {'train': 9 * seconds / epochs, 'evaluate': 9.0}}  # most epochs have somebody else's work beside
    rows = [*[quiet] * (epochs * 3 // 10), *[busy] * (epochs * 7 // 10)]
    (run / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def points(tmp_path):
    for seed, shift in ((0, -0.5), (1, 0.5)):
        finish(tmp_path, 'baseline', 10, seed, 20 + shift, 100)
        finish(tmp_path, 'baseline', 40, seed, 16 + shift, 400)
        finish(tmp_path, 'dks', 10, seed, 19 + 2 * shift, 200)
        finish(tmp_path, 'dks', 40, seed, 13 + shift, 800)
    (tmp_path / 'unfinished').mkdir()
    (tmp_path / 'unfinished/run.json').write_text(
        json.dumps({'settings': {}, 'seed': 0, 'threads': 1, 'best_on': 'val'})
    )
    return read_points(tmp_path)


def test_gains(points):
    rows = {tuple(line.split('|')[i].strip() for i in (1, 2)): line for line in report(points).splitlines()[2:]}
    assert list(rows) == [('baseline', '10'), ('baseline', '40'), ('dks', '10'), ('dks', '40')]
    # half way between 100 s and 400 s on a logarithmic axis the baseline has 18 %
    assert at_time(points['baseline'], 200) == pytest.approx({0: 17.5, 1: 18.5})
    assert at_time(points['baseline'], 99) == at_time(points['baseline'], 401) == {}
    columns = [cell.strip() for cell in rows['dks', '10'].split('|')[3:-1]]
    assert columns == ['2', '19.00(1.41)', '+1.00 +- 6.35', '-1.00 +- 6.35', '200 s']
    columns = [cell.strip() for cell in rows['dks', '40'].split('|')[3:-1]]
    assert columns == ['2', '13.00(0.71)', '+3.00 +- 0.00', '', '800 s']  # the baseline was not run that long


def test_equal_time_is_of_the_seeds_that_ran_at_both_lengths(points):
    baseline = points['baseline']
    assert at_time({5: Point({0: 30.0}, 50.0), **baseline, 80: Point({}, 800.0)}, 200) == at_time(baseline, 200)
    assert at_time(baseline, 100) == baseline[10].errors
    assert at_time(baseline, 400) == baseline[40].errors
    del baseline[40].errors[1]
    assert at_time(baseline, 200) == pytest.approx({0: 17.5})


def test_runs_of_several_settings_are_no_seeds(tmp_path):
    for name in ('one', 'other'):
        finish(tmp_path, 'dks', 10, 0, 20, 100)
        (tmp_path / 'dks-10-0').rename(tmp_path / name)
    with pytest.raises(ValueError, match='dks with 10 epochs and one seed was run with several settings'):
        read_points(tmp_path)


def test_without_a_baseline_only_errors_and_times_are_given(points):
    del points['baseline']
    row = report(points).splitlines()[2]
    assert [cell.strip() for cell in row.split('|')[1:-1]] == ['dks', '10', '2', '19.00(1.41)', '', '', '200 s']


def test_figure(points, tmp_path):
    draw(points, tmp_path / 'lengths.png')
    assert (tmp_path / 'lengths.png').read_bytes().startswith(b'\x89PNG')
