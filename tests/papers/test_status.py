"""The page of results says of every row of both papers what was run, and no more than was run."""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path

import pytest

import dkszoo
from benchmarks.lengths import in_order
from benchmarks.long_runs import ORDER, draw, read_curves
from dkszoo.cli.reproduce import read_flags
from dkszoo.papers.grid import Result
from dkszoo.papers.records import list_tables, read_table
from dkszoo.papers.report import report
from dkszoo.papers.reproduce import plan_table
from dkszoo.papers.stats import gain_by_seed, mean_std, show, table
from dkszoo.papers.status import DATA, get_status, status_page

RESULTS = Path(__file__).parents[2] / 'docs/results'


def test_the_page_is_what_the_data_say():
    assert status_page() in (RESULTS / 'README.md').read_text()  # else put what status_page() gives there


@pytest.mark.parametrize('entry', DATA['runs'], ids=lambda entry: f'{entry["results"]}/{entry["table"]}')
def test_what_is_claimed_was_run(entry):
    """Each row claimed stands in its table with a figure, from runs that are there and that would be run today."""
    assert entry['status'] in ('reproduced', 'scaled analogue')
    folder, name = RESULTS / entry['results'], entry['table']
    runs = {cells[0].split(' (T=')[0]: int(cells[5]) for cells in rows((folder / f'{name}.md').read_text())[2:]}
    records = [record for record in read_table(name) if record.row in entry.get('rows', [record.row])]
    assert all(runs[record.row] > 0 for record in records)
    there = {path.stem: json.loads(path.read_text()) for path in (folder / 'runs').glob('*.json')}
    data_dir = next(iter(there.values()))['settings']['data_dir']
    overrides = {'dataset': 'torch/fashion_mnist', 'data_dir': data_dir}
    plans = plan_table(records, entry['budget'], 1, read_flags, overrides, equal_time=False)
    planned = {cell.name for plan in plans for (cell,) in plan.cells}
    assert planned <= there.keys()
    assert all('result' in there[run] and (folder / f'runs/{run}.csv').is_file() for run in planned)


@pytest.mark.parametrize('entry', DATA['runs'], ids=lambda entry: f'{entry["results"]}/{entry["table"]}')
def test_a_published_table_is_what_its_runs_give(entry):
    folder, name = RESULTS / entry['results'], entry['table']
    text = (folder / f'{name}.md').read_text()
    there = {path.stem: Result(json.loads(path.read_text()), 0.0, path) for path in (folder / 'runs').glob('*.json')}
    data_dir = next(iter(there.values())).record['settings']['data_dir']
    overrides = {'dataset': 'torch/fashion_mnist', 'data_dir': data_dir}
    seeds = max(int(cells[5]) for cells in rows(text)[2:])
    plans = plan_table(read_table(name), entry['budget'], seeds, read_flags, overrides, equal_time=True)
    again = report(plans, there)
    assert [cells[:-1] for cells in rows(again)] == [cells[:-1] for cells in rows(text)]  # times are in no record
    assert again.partition('\n\n')[2] == text.rstrip('\n').partition('\n\n')[2]


LONG = RESULTS / 'fashion_mnist_65_epochs'
CIFAR10 = RESULTS / 'cifar10_75_epochs'


@pytest.mark.parametrize('which', ['last', 'best'])
@pytest.mark.parametrize(('folder', 'noise'), [(LONG, 0.0), (LONG, 0.5), (CIFAR10, 0.0)])
def test_the_tables_of_the_long_runs_are_what_the_runs_give(folder, noise, which):
    """Error and cross-entropy on the test images; gains over the baseline of as many epochs and over the longer one."""
    runs: dict[tuple, list[dict]] = {}
    for path in sorted((folder / 'runs').glob('*.json')):
        record = json.loads(path.read_text())
        settings = record['settings']
        if settings['label_noise'] == noise:
            key = (settings['model'], ORDER.index(settings['method']), settings['epochs'])
            runs.setdefault(key, []).append(record)
    errors = {key: {r['seed']: 100 - r['result'][which]['top1'] for r in group} for key, group in runs.items()}
    lines = []
    for key in sorted(runs):
        baselines = [other for other in sorted(runs) if other[:2] == (key[0], 0)]  # the shorter one first
        gains = [gain_by_seed(errors[other], errors[key]) if other != key else '' for other in baselines]
        loss, _ = mean_std([r['result'][which]['loss'] for r in runs[key]])
        assert len(errors[key]) == 3
        cells = (ORDER[key[1]], str(key[2]), show(*mean_std(list(errors[key].values()))), f'{loss:.3f}')
        lines.append((f'`{key[0]}`', *cells, gains[0], '' if key in baselines else ''.join(gains[1:])))
    header = (
        'network',
        'method',
        'epochs',
        f'error, {which}',
        'cross-entropy',
        'gain',
        'gain over the longer baseline',
    )
    columns = 6 if noise else 7  # no longer baseline was run with wrong labels
    assert table(header[:columns], [line[:columns] for line in lines]) in (folder / 'README.md').read_text()


@pytest.mark.parametrize(
    ('folder', 'networks'), [(LONG, ('resnet20', 'resnet8x4', 'wrn16_2')), (CIFAR10, ('resnet8x4', 'wrn16_2'))]
)
def test_the_curves_of_the_long_runs_are_whole(tmp_path, folder, networks):
    panels = read_curves(folder / 'runs')
    assert sorted(model for model, noise in panels if not noise) == [f'cifar_{name}' for name in networks]
    for curves in panels.values():
        for (_, epochs), runs in curves.items():
            assert [len(errors) for errors in runs] == [epochs] * 3
            assert all(errors[-1] < errors[0] for errors in runs)
    draw(folder / 'runs', tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_the_exports_of_cifar10_are_what_is_said_of_them():
    files = sorted((CIFAR10 / 'weights').glob('*.safetensors'))
    errors = []
    for file in files:
        model, _ = dkszoo.load(file)  # checks the hash
        card = json.loads(file.with_suffix('.json').read_text())
        assert (type(model).__name__, card['dataset']) == ('CifarResNet', 'torch/cifar10')
        errors.append(f'{100 - card["results"]["top1"]:.2f}')
    assert [file.stem for file in files] == ['cifar_resnet8x4.base_cifar10', 'cifar_resnet8x4.dks_cifar10']
    assert f'{errors[1]} and {errors[0]} % error' in ' '.join((RESULTS.parent / 'weights.md').read_text().split())


def last_errors(records: Iterable[dict]) -> dict[tuple[str, int], dict[int, float]]:
    """Test errors after the last epoch, by method and epochs, then by seed."""
    errors: dict[tuple[str, int], dict[int, float]] = {}
    for record in records:
        run = (record['settings']['method'], record['settings']['epochs'])
        errors.setdefault(run, {})[record['seed']] = 100 - record['result']['last']['top1']
    return errors


@pytest.mark.parametrize(
    ('folder', 'study'),
    [
        *(('lengths', study) for study in ('', '-resnet8', '-resnet8-float32', '-noise50')),
        *(('noise', study) for study in ('-50', '-80')),
        *(('cifar10', study) for study in ('', '-augmented')),
    ],
)
def test_the_tables_of_lengths_are_what_the_runs_give(folder, study):
    """Errors and gains at equal epochs; the records hold no times of epochs, of which the other columns are."""
    paths = sorted((RESULTS / folder / 'runs').glob(f'*-seed?{study}.json'))
    errors = last_errors(json.loads(path.read_text()) for path in paths)
    lines = []
    for (method, epochs), by_seed in sorted(errors.items(), key=in_order):
        gain = '' if method == 'baseline' else gain_by_seed(errors['baseline', epochs], by_seed)
        lines.append([method, str(epochs), str(len(by_seed)), show(*mean_std(list(by_seed.values()))), gain])
    published = [cells[:5] for cells in rows((RESULTS / folder / 'README.md').read_text()) if cells[1].isdecimal()]
    assert lines
    starts = [i for i in range(len(published)) if i == 0 or published[i - 1][0] != 'baseline']  # of whole tables
    assert any(published[i : i + len(lines)] == lines for i in starts)


def errors_of_ten_seeds(runs: str, method: str, epochs: int, study: str = '', epoch: str = 'last') -> dict[int, float]:
    """Test errors after the last or the best epoch, by seed."""
    paths = [RESULTS / runs / f'{method}-epochs_{epochs}-seed{seed}{study}.json' for seed in range(10)]
    return {seed: 100 - json.loads(p.read_text())['result'][epoch]['top1'] for seed, p in enumerate(paths)}


def count_ahead(errors: dict[int, float], others: dict[int, float]) -> str:
    return str(sum(errors[seed] < error for seed, error in others.items()))


def test_what_ten_seeds_say_is_what_the_runs_give():
    dks, lines = errors_of_ten_seeds('lengths/runs', 'dks', 80), []
    for method, epochs in (('baseline', 80), ('baseline', 160), ('ds', 80)):
        other = errors_of_ten_seeds('lengths/runs', method, epochs)
        added = {seed: error for seed, error in dks.items() if seed > 2}
        without = {seed: other[seed] for seed in added}
        lines.append([gain_by_seed(other, dks)[1:], count_ahead(dks, other), gain_by_seed(without, added)[1:]])
    published = rows((RESULTS / 'lengths/README.md').read_text())
    start = next(i for i, cells in enumerate(published) if cells[0] == 'DKS, 80 epochs, ahead of')
    assert [cells[1:] for cells in published[start + 2 : start + 5]] == lines


def test_what_ten_seeds_of_another_network_say_is_what_the_runs_give():
    study = '-resnet8-float32'
    dks = errors_of_ten_seeds('lengths/runs', 'dks', 80, study)
    published = rows((RESULTS / 'lengths/README.md').read_text())
    start = next(i for i, cells in enumerate(published) if cells[0] == 'DKS, 80 epochs, float32, ahead of')
    for epochs, cells in zip((80, 160), published[start + 2 : start + 4], strict=True):
        other = errors_of_ten_seeds('lengths/runs', 'baseline', epochs, study)
        assert cells == [f'the plain network, {epochs} epochs', gain_by_seed(other, dks)[1:], count_ahead(dks, other)]


@pytest.mark.parametrize(
    ('study', 'length', 'method', 'epochs'),
    [
        *(('', 80, method, epochs) for method, epochs in (('baseline', 80), ('baseline', 160), ('ds', 80))),
        *(('-augmented', 80, 'baseline', epochs) for epochs in (80, 192)),
        *(('-augmented', 192, 'baseline', epochs) for epochs in (192, 460)),
    ],
)
def test_what_is_said_of_cifar10_is_what_the_runs_give(study, length, method, epochs):
    paths = (RESULTS / 'cifar10/runs').glob(f'*-seed?{study}.json')
    errors = last_errors(json.loads(path.read_text()) for path in paths)
    other = errors[method, epochs]
    dks = {seed: errors['dks', length][seed] for seed in other}
    name = {'baseline': 'the plain network', 'ds': 'DS'}[method]
    gain = gain_by_seed(other, dks).removeprefix('+')
    line = [f'{name}, {epochs} epochs', gain, f'{count_ahead(dks, other)} of {len(dks)}']
    assert line in rows((RESULTS / 'cifar10/README.md').read_text())


@pytest.mark.parametrize('epoch', ['last', 'best'])
def test_the_tables_of_distillation_are_what_the_runs_give(epoch):
    errors = {}
    for method, epochs in (('baseline', 80), ('baseline', 160), ('kd', 80), ('dskd', 80), ('dks', 80)):
        runs, study = ('distillation/runs', '') if 'kd' in method else ('lengths/runs', '-resnet8-float32')
        errors[method, epochs] = errors_of_ten_seeds(runs, method, epochs, study, epoch)
    header = ('method', 'epochs', 'runs', f'error, {epoch}')
    plain, lines = [('baseline', 80), ('baseline', 160)], []
    for (method, epochs), by_seed in list(errors.items())[:4]:
        gains = [gain_by_seed(errors[other], by_seed) if method != 'baseline' else '' for other in plain]
        lines.append([method, str(epochs), str(len(by_seed)), show(*mean_std(list(by_seed.values()))), *gains])
    page = (RESULTS / 'distillation/README.md').read_text()
    assert table((*header, 'gain over the plain 80 epochs', 'over its 160'), lines) in page
    dskd, lines = errors['dskd', 80], []
    for method in ('kd', 'dks'):
        other = {seed: error for seed, error in errors[method, 80].items() if seed in dskd}
        lines.append([f'`{method}`', gain_by_seed(other, dskd), f'{count_ahead(dskd, other)} of {len(dskd)}'])
    assert table((f'`dskd`, {epoch} epoch, against', 'gain', 'ahead in'), lines) in page


@pytest.mark.parametrize('epoch', ['last', 'best'])
def test_the_tables_of_the_second_teacher_are_what_the_runs_give(epoch):
    dskd, lines = errors_of_ten_seeds('distillation/runs', 'dskd', 80, '-teacher1', epoch), []
    for method, epochs in (('kd', 80), ('kd', 136), ('dskd', 80)):
        other = errors_of_ten_seeds('distillation/runs', method, epochs, '-teacher1', epoch)
        gain = [gain_by_seed(other, dskd), f'{count_ahead(dskd, other)} of {len(other)}']
        figures = [method, str(epochs), str(len(other)), show(*mean_std(list(other.values())))]
        lines.append([*figures, *(gain if method == 'kd' else ['', ''])])
    header = ('method', 'epochs', 'runs', f'error, {epoch}', 'gain of `dskd` over it', 'ahead in')
    assert table(header, lines) in (RESULTS / 'distillation/README.md').read_text()


@pytest.mark.parametrize('epoch', ['last', 'best'])
def test_the_tables_of_distillation_on_cifar10_are_what_the_runs_give(epoch):
    errors, lines = {}, []
    for method, epochs in (('baseline', 80), ('baseline', 192), ('kd', 80), ('kd', 136), ('dskd', 80)):
        runs, study = ('distillation/runs', '-cifar10') if 'kd' in method else ('cifar10/runs', '-augmented')
        errors[method, epochs] = errors_of_ten_seeds(runs, method, epochs, study, epoch)
    plain, dskd = errors['baseline', 192], errors['dskd', 80]
    for (method, epochs), own in errors.items():
        over = gain_by_seed(plain, own) if own is not plain else ''
        gain = [gain_by_seed(own, dskd), f'{count_ahead(dskd, own)} of {len(own)}'] if own is not dskd else ['', '']
        lines.append([method, str(epochs), str(len(own)), show(*mean_std(list(own.values()))), over, *gain])
    header = ('method', 'epochs', 'runs', f'error, {epoch}', 'gain over the plain 192 epochs')
    page = (RESULTS / 'distillation/README.md').read_text()
    assert table((*header, 'gain of `dskd` over it', 'ahead in'), lines) in page


FINE_TUNED = {  # a run's name, without its seed: start, method, epochs
    'baseline-epochs_40-lr_0.1-initial_checkpoint_': ('random', 'baseline', '40'),
    'baseline-epochs_40': ('pretrained', 'baseline', '40'),
    'baseline-epochs_84': ('pretrained', 'baseline', '84'),
    'ds-epochs_40': ('pretrained', 'ds', '40'),
    'dks-epochs_40': ('pretrained', 'dks', '40'),
    'dks-epochs_40-branch_lr_scale_5': ('pretrained', 'dks, branches at 5 times the rate', '40'),
}


def fine_tuning(epoch: str) -> str:
    """Errors after fine-tuning, at the 'last' or the 'best' epoch."""
    errors = {}
    for name in FINE_TUNED:
        records = [json.loads(p.read_text()) for p in (RESULTS / 'finetuning/runs').glob(f'{name}-seed[0-9].json')]
        errors[name] = {record['seed']: 100 - record['result'][epoch]['top1'] for record in records}
    plain, longer, lines = errors['baseline-epochs_40'], errors['baseline-epochs_84'], []
    for name, by_seed in errors.items():
        gains = [gain_by_seed(other, by_seed) if other is not by_seed else '' for other in (plain, longer)]
        figures = (str(len(by_seed)), show(*mean_std(list(by_seed.values()))))
        lines.append((*FINE_TUNED[name], *figures, *gains))
    over = ('gain over plain 40', 'gain over plain 84')
    return table(('start', 'method', 'epochs', 'runs', f'error, {epoch}', *over), lines)


@pytest.mark.parametrize('epoch', ['last', 'best'])
def test_the_tables_of_fine_tuning_are_what_the_runs_give(epoch):
    assert fine_tuning(epoch) in (RESULTS / 'finetuning/README.md').read_text()


def test_the_rate_of_fine_tuning_is_the_best_of_those_tried():
    """By the held-out images, of plain fine-tuning, with seeds that no table has."""
    errors = {}
    for path in (RESULTS / 'finetuning/runs').glob('baseline-epochs_40-lr_*-seed10?.csv'):
        with open(path, newline='') as file:
            *_, last = csv.DictReader(file)
        rate = path.name.split('lr_')[1].split('-')[0]
        errors.setdefault(rate, []).append(100 - float(last['eval_top1']))
    found = [(rate, show(sum(e) / len(e), None)) for rate, e in sorted(errors.items())]
    assert {len(e) for e in errors.values()} == {3}
    assert min(found, key=lambda row: float(row[1]))[0] == '0.02'
    page = (RESULTS / 'finetuning/README.md').read_text()
    assert ', '.join(f'{error} ({rate})' for rate, error in found) in ' '.join(page.split())


@pytest.mark.parametrize('percent', ['50', '80'])
def test_what_is_said_of_wrong_labels_is_what_the_runs_give(percent):
    dks, lines = errors_of_ten_seeds('noise/runs', 'dks', 10, f'-{percent}'), []
    for method, epochs in (('baseline', 10), ('ds', 10), ('baseline', 24)):
        other = errors_of_ten_seeds('noise/runs', method, epochs, f'-{percent}')
        lines.append([gain_by_seed(other, dks), count_ahead(dks, other)])
    page = (RESULTS / 'noise/README.md').read_text()
    published = rows(page.partition(f'## {percent} % of the labels wrong')[2])
    start = next(i for i, cells in enumerate(published) if cells[0].startswith('DKS, 10 epochs'))
    assert [cells[1:] for cells in published[start + 2 : start + 5]] == lines


def rows(text: str) -> list[list[str]]:
    """The cells of the Markdown table in a text, header and rule included."""
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('|')]


def test_every_row_has_a_status():
    for name in list_tables():
        for record in read_table(name):
            status = get_status(record)
            assert status.word in ('reproduced', 'scaled analogue', 'not run')
            assert (status.word == 'reproduced') == (status.why == '')
            assert (status.word == 'not run') == (status.results == '')


# Of each row in the summary: records, network, epochs, epochs of a plain network given about DKS's time.
SUMMARY = (
    ('lengths/runs/*-seed?.json', 'cifar_wrn16_1', 80, 160),
    ('lengths/runs/*-seed?-resnet8-float32.json', 'cifar_resnet8', 80, 160),
    ('cifar10/runs/*-seed?.json', 'cifar_resnet8', 80, 160),
    ('cifar10/runs/*-seed?-augmented.json', 'cifar_resnet8', 80, 192),
    ('cifar10/runs/*-seed?-augmented.json', 'cifar_resnet8', 192, 460),
    ('fashion_mnist_65_epochs/runs/*.json', 'cifar_wrn16_2', 65, 104),
    ('fashion_mnist_65_epochs/runs/*.json', 'cifar_resnet8x4', 65, 116),
    ('fashion_mnist_65_epochs/runs/*.json', 'cifar_resnet20', 65, None),
    ('cifar10_75_epochs/runs/*.json', 'cifar_resnet8x4', 75, 131),
    ('cifar10_75_epochs/runs/*.json', 'cifar_wrn16_2', 75, 120),
)


def summary() -> str:
    lines = []
    for records, network, epochs, longer in SUMMARY:
        found = [json.loads(path.read_text()) for path in RESULTS.glob(records)]
        runs = [r for r in found if r['settings']['model'] == network and not r['settings']['label_noise']]
        ((dataset, plainly, images),) = {
            (s['dataset'], s['no_aug'], s['train_num_samples'] or r['train_images'])
            for r in runs
            for s in [r['settings']]
        }
        data = {'torch/fashion_mnist': 'Fashion-MNIST', 'torch/cifar10': 'CIFAR-10'}[dataset]
        errors = last_errors(runs)
        plain, dks = errors['baseline', epochs], errors['dks', epochs]
        assert plain.keys() == dks.keys()
        setting = (f'{data}, {images:,}', 'no' if plainly else 'yes', f'`{network}`', str(epochs), str(len(dks)))
        means = [show(mean_std(list(by_seed.values()))[0], None) for by_seed in (plain, dks)]
        at_equal_time = gain_by_seed(errors['baseline', longer], dks) if longer else 'not run'
        lines.append((*setting, *means, gain_by_seed(plain, dks), at_equal_time))
    header = ('data, images', 'augmented', 'network', 'epochs', 'seeds', 'plain', 'DKS', 'gain', 'gain at equal time')
    return table(header, lines)


def training_errors() -> str:
    """Training and test error after the last epoch, of the networks that DKS was compared in on whole data sets."""
    lines = []
    for folder, data in ((LONG, 'Fashion-MNIST'), (CIFAR10, 'CIFAR-10')):
        errors: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
        for path in (folder / 'runs').glob('*.json'):
            record = json.loads(path.read_text())
            settings = record['settings']
            if settings['label_noise'] == 0 and settings['epochs'] in (65, 75):
                *_, last = csv.DictReader(path.with_suffix('.csv').read_text().splitlines())
                pair = (100 - float(last['train_top1']), 100 - record['result']['last']['top1'])
                errors.setdefault((settings['model'], settings['method'], settings['epochs']), []).append(pair)
        for network, epochs in sorted({(network, epochs) for network, _, epochs in errors}):
            cells = [errors.get((network, method, epochs)) for method in ('baseline', 'ds', 'dks')]
            means = [[f'{math.fsum(column) / 3:.2f}' for column in zip(*runs, strict=True)] for runs in cells if runs]
            assert all(len(runs) == 3 for runs in cells if runs)
            plain, *ds, dks = [' / '.join(pair) for pair in means]
            lines.append((f'{data}, `{network}`', plain, *(ds or ['not run']), dks))
    return table(('training / test error', 'plain', 'DS', 'DKS'), lines)


def test_the_training_errors_are_those_of_the_runs():
    assert training_errors() in (RESULTS / 'when.md').read_text()


@pytest.mark.parametrize('page', ['README.md', 'docs/results/when.md'])
def test_the_summary_is_what_the_runs_give(page):
    assert summary() in (RESULTS.parents[1] / page).read_text()
