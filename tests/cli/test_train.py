"""train.py end to end on a network small enough for a test."""

import argparse
import csv
import dataclasses
import json
import logging
import os
import re

import pytest
import safetensors.torch
import timm
import torch
import yaml

import dkszoo
from dkszoo.cli import train
from dkszoo.cli.flags import add_flags
from dkszoo.cli.main import main
from dkszoo.cli.reproduce import read_flags
from dkszoo.cli.timm_flags import INSTEAD, NOT_SUPPORTED, advise
from dkszoo.deploy import export_hub
from dkszoo.engine.checkpoint import read_checkpoint, state_hash
from dkszoo.engine.config import FREE, TrainConfig, flag, negation
from dkszoo.engine.trainer import Trainer
from dkszoo.papers.grid import to_flags
from dkszoo.weights import sha256

TINY = (
    *('train', '--config', 'quickstart', '--experiment', 'tiny', '--epochs', '2', '--batch-size', '64'),
    *('--train-num-samples', '256'),
    *('--model-kwargs', 'channels=[4,8,16]', 'stem_chs=4', '--device', 'cpu', '--workers', '0'),
)


def test_train_export_validate_and_finish_again(run_cli, tmp_path):
    code, out, err = run_cli(*TINY, '--export', 'out.safetensors')
    assert code == 0, err
    folder = tmp_path / 'runs/tiny'
    files = {'args.yaml', 'run.json', 'summary.csv', 'log.jsonl', 'curves.png', 'last.pth.tar', 'model_best.pth.tar'}
    assert {path.name for path in folder.iterdir()} == files
    assert 'test accuracy, last epoch' in out
    assert 'bit-identical' in out

    # the training checkpoint is timm's: its own loader fills the plain model strictly
    kwargs = dict(num_classes=10, in_chans=1, channels=[4, 8, 16], stem_chs=4)
    plain = timm.create_model('cifar_resnet8', **kwargs).eval()
    assert not any(timm.models.load_checkpoint(plain, str(folder / 'model_best.pth.tar'), strict=True))

    # the export is the same network, bit for bit
    model, transform = dkszoo.load(tmp_path / 'out.safetensors')
    images = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(images), plain(images))
    card = json.loads((tmp_path / 'out.json').read_text())
    assert card['sha256'] == sha256(tmp_path / 'out.safetensors')
    assert card['class_names'] == [str(i) for i in range(10)]
    from dkszoo.data import open_dataset

    assert transform(open_dataset('digits', None, 'test')[0][0]).shape == (1, 32, 32)

    # validate gives the very numbers of the log, from either file
    result = json.loads((folder / 'run.json').read_text())['result']
    for file, expected in (
        ('runs/tiny/last.pth.tar', 'last'),
        ('runs/tiny/model_best.pth.tar', 'best'),
        ('out.safetensors', 'best'),
    ):
        code, out, err = run_cli('validate', '--checkpoint', file, '--device', 'cpu', '--workers', '0')
        assert code == 0, err
        figures = json.loads(out.splitlines()[-1])
        for key in ('loss', 'top1', 'top5'):
            assert figures[key] == result[expected][key]

    # the same command prints the finished result and trains nothing
    before = (folder / 'last.pth.tar').stat().st_mtime_ns
    code, out, _ = run_cli(*TINY)
    assert code == 0
    assert 'finished already' in out
    assert (folder / 'last.pth.tar').stat().st_mtime_ns == before

    # other settings are refused, unless they cannot change the result
    code, _, err = run_cli(*TINY, '--method', 'byot')
    assert (code, 'holds a run with --method dks, not byot' in err) == (2, True)  # not --branches, which follow
    code, _, err = run_cli(*TINY, '--lr', '0.2')
    assert code == 2
    assert '--lr 0.1, not 0.2' in err.splitlines()[-1]
    assert run_cli(*TINY, '--workers', '1', '--log-interval', '3')[0] == 0


def test_summary_has_every_head_and_term(run_cli, tmp_path):
    assert run_cli(*TINY, '--epochs', '1', '--eval-test-every-epoch')[0] == 0
    with open(tmp_path / 'runs/tiny/summary.csv', newline='') as file:
        (row,) = csv.DictReader(file)
    terms = [float(row[f'train_{term}']) for term in ('ce', 'ds', 'synergy')]
    assert sum(terms) == pytest.approx(float(row['train_loss']), rel=1e-5)
    for name in ('eval_top1', 'eval_branch0_top1', 'eval_branch1_top5', 'eval_test_top1', 'train_branch0_top1'):
        assert 0 <= float(row[name]) <= 100


def test_validate_per_branch_and_results_file(run_cli, tmp_path):
    assert run_cli(*TINY, '--epochs', '1')[0] == 0
    validate = ('validate', '--checkpoint', 'runs/tiny/last.pth.tar', '--per-branch', '--results-file', 'r.csv')
    for _ in range(2):
        code, out, err = run_cli(*validate)
        assert code == 0, err
    result = json.loads((tmp_path / 'runs/tiny/run.json').read_text())['result']['last']
    assert json.loads(out.splitlines()[-1])['branch1_top1'] == result['branch1_top1']
    with open(tmp_path / 'r.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert float(rows[0]['top1']) == result['top1']
    plain = json.loads(run_cli(*validate[:3])[1].splitlines()[-1])
    assert (float(rows[0]['param_count']), float(rows[0]['ece'])) == (plain['param_count'], plain['ece'])
    assert not [key for key in plain if key.startswith('branch')]


def test_best_on_test_is_stamped(run_cli, tmp_path):
    assert run_cli(*TINY, '--epochs', '1', '--val-split', '0', '--best-on', 'test')[0] == 0
    assert 'eval_best_on' in (tmp_path / 'runs/tiny/summary.csv').read_text()
    assert json.loads((tmp_path / 'runs/tiny/run.json').read_text())['best_on'] == 'test'


def test_where_only_a_branch_learns_the_best_epoch_is_its_own(run_cli, tmp_path):
    alone = ('--method', 'ds', '--taps', '1', '--ce-weight', '0', '--epochs', '4', '--lr', '0.3')
    assert run_cli(*TINY, *alone)[0] == 0
    with open(tmp_path / 'runs/tiny/summary.csv', newline='') as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    last_of_equals = max(rows, key=lambda row: (row['eval_branch0_top1'], row['epoch']))
    assert json.loads((tmp_path / 'runs/tiny/run.json').read_text())['result']['best_epoch'] == last_of_equals['epoch']
    assert len({row['eval_branch0_top1'] for row in rows}) > 1


@pytest.mark.parametrize('method', ['baseline', 'ds'])
def test_other_methods_train(run_cli, tmp_path, method):
    code, _, err = run_cli(*TINY, '--method', method, '--epochs', '1', '--export', 'o.safetensors')
    assert code == 0, err
    card = json.loads((tmp_path / 'o.json').read_text())
    assert (card['method'], card['design']) == (method, None if method == 'baseline' else 'dks')


def test_ema_is_what_is_judged_and_exported(run_cli, tmp_path):
    code, _, err = run_cli(*TINY, '--model-ema', '--model-ema-decay', '0.5', '--export', 'o.safetensors')
    assert code == 0, err
    checkpoint = torch.load(tmp_path / 'runs/tiny/model_best.pth.tar', weights_only=True)
    model, _ = dkszoo.load(tmp_path / 'o.safetensors')
    exported = model.state_dict()
    assert all(torch.equal(exported[key], value) for key, value in checkpoint['state_dict_ema'].items())
    assert not all(torch.equal(exported[key], value) for key, value in checkpoint['state_dict'].items())
    for averaged, own in ((True, checkpoint['state_dict_ema']), (False, checkpoint['state_dict'])):  # as timm reads it
        timms = timm.create_model('cifar_resnet8', num_classes=10, in_chans=1, channels=[4, 8, 16], stem_chs=4)
        timm.models.load_checkpoint(timms, str(tmp_path / 'runs/tiny/model_best.pth.tar'), use_ema=averaged)
        assert all(torch.equal(timms.state_dict()[key], value) for key, value in own.items())
    result = json.loads((tmp_path / 'runs/tiny/run.json').read_text())['result']
    _, out, _ = run_cli('validate', '--checkpoint', 'runs/tiny/model_best.pth.tar')
    assert json.loads(out.splitlines()[-1])['loss'] == result['best']['loss']
    _, out, _ = run_cli('validate', '--checkpoint', 'runs/tiny/model_best.pth.tar', '--no-ema')
    assert json.loads(out.splitlines()[-1])['loss'] != result['best']['loss']
    assert run_cli('export', 'runs/tiny/model_best.pth.tar', 'p.safetensors', '--no-ema')[0] == 0
    plain, _ = dkszoo.load(tmp_path / 'p.safetensors')
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in checkpoint['state_dict'].items())
    assert [json.loads((tmp_path / f'{name}.json').read_text())['ema'] for name in 'op'] == [True, False]
    both = ('q.safetensors', '--hub-dir', 'hub')
    assert run_cli('export', 'runs/tiny/model_best.pth.tar', *both, '--no-ema')[0] == 0
    assert sha256(tmp_path / 'q.safetensors') == sha256(tmp_path / 'hub/model.safetensors')
    assert json.loads((tmp_path / 'hub/config.json').read_text())['pretrained_cfg']['license'] == 'apache-2.0'
    folder = safetensors.torch.load_file(tmp_path / 'hub/model.safetensors')
    assert all(torch.equal(folder[key], value) for key, value in checkpoint['state_dict'].items() if key in folder)
    export_hub('runs/tiny/model_best.pth.tar', 'averaged')
    assert sha256('averaged/model.safetensors') == sha256('o.safetensors')


def test_print_config_is_a_recipe_of_itself(run_cli, tmp_path):
    code, out, _ = run_cli('train', '--config', 'quickstart', '--print-config', '--synergy', 'top-down', '--overwrite')
    assert code == 0
    shown = yaml.safe_load(out)
    assert (shown['num_classes'], shown['overwrite']) == (10, False)
    (tmp_path / 'mine.yaml').write_text(out)
    code, again, _ = run_cli('train', '--config', 'mine.yaml', '--print-config')
    assert code == 0
    assert again == out
    assert not (tmp_path / 'runs').exists()


def test_a_variation_of_a_run_does_not_replace_its_export(run_cli, tmp_path):
    def resolve(*argv: str) -> tuple[int, str]:
        code, out, err = run_cli('train', *argv, '--print-config')
        return code, yaml.safe_load(out)['export'] if code == 0 else err

    (tmp_path / 'first.yaml').write_text('experiment: first\nexport: first.safetensors\n')
    (tmp_path / 'unnamed.yaml').write_text("experiment: ''\nmodel: cifar_resnet8\nexport: first.safetensors\n")
    first, unnamed = os.path.join('runs', 'first'), os.path.join('runs', 'cifar_resnet8-dks-digits')
    for own, argv in (
        (first, ('--config', 'first.yaml', '--experiment', 'second')),
        (first, ('--config', 'first.yaml', '--output', 'other')),
        (unnamed, ('--config', 'unnamed.yaml', '--model', 'cifar_resnet14')),
    ):
        message = f"'first.safetensors' is the export of {own!r} (--export names another file, --export '' none)"
        assert resolve(*argv) == (2, f'dkszoo: error: {message}\n')
        for export in ('second.safetensors', ''):
            assert resolve(*argv, '--export', export) == (0, export)
    for argv in ((), ('--experiment', 'first', '--seed', '7'), ('--output', './runs/')):
        assert resolve('--config', 'first.yaml', *argv) == (0, 'first.safetensors')
    assert resolve('--experiment', 'second') == (0, '')  # no recipe


@pytest.mark.parametrize('name', [f.name for f in dataclasses.fields(TrainConfig) if f.type in (bool, 'bool')])
def test_switches_set_what_they_say(name):
    assert read_flags([flag(name)]) == {name: True}
    assert read_flags([negation(name)]) == {name: False}
    for value in (True, False):
        assert read_flags(to_flags({name: value})) == {name: value}


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *(('decay_milestones', (60, 120)), ('mean', (0.5,)), ('taps', (0, 'layer2')), ('alpha', (0.5, 1.0))),
        *(('taps', (-2, 0)), ('mean', (-0.1, 0.2)), ('mean', (-1e-05, -0.5))),
    ],
)
def test_lists_are_taken_in_timms_form_and_in_one_word(name, value):
    words = [str(v) for v in value]
    assert read_flags([flag(name), *words]) == {name: value}
    assert read_flags([flag(name), ','.join(words)]) == {name: value}
    assert read_flags([f'{flag(name)}={",".join(words)}']) == {name: value}
    assert read_flags(to_flags({name: value})) == {name: value}


def test_negative_numbers_are_no_flags():
    assert read_flags(['--beta', '-1,0;0,-.5', '--lr', '-1e-3']) == {'beta': ((-1, 0), (0, -0.5)), 'lr': -0.001}


def test_values_of_keys_are_as_timm_reads_them():
    argv = ['--opt-kwargs', 'a=None', 'b=null', 'c=0.9,0.99', 'd=()', 'e=1e-3', 'f=[1, 2]', 'g=true', 'h=mean']
    values = {'a': None, 'b': None, 'c': [0.9, 0.99], 'd': [], 'e': 1e-3, 'f': [1, 2], 'g': True, 'h': 'mean'}
    assert read_flags(argv) == {'opt_kwargs': values}


def test_timms_short_flags():
    argv = ['-b', '3', '-vb', '4', '-j', '1', '--dr', '0.5']
    assert read_flags(argv) == {'batch_size': 3, 'validation_batch_size': 4, 'workers': 1, 'decay_rate': 0.5}


def test_advice_on_timms_flags_names_flags_that_there_are():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert not flags & ({*INSTEAD} | NOT_SUPPORTED)
    for name, advice in INSTEAD.items():
        named = re.findall('--[a-z-]+', advice)
        assert advise([name, '1'], named) == f"timm's {name} is {advice}"
        assert advise([name, '1'], []) == ''
        assert set(named) <= flags | {'--no-ema'}, name  # validate's, export's and convert's


def test_flags_are_not_abbreviated():
    with pytest.raises(ValueError, match=r'unknown arguments: --epoch 3 \(did you mean --epochs'):
        read_flags(['--epoch', '3'])


def test_torchcompile_takes_timms_word():
    assert read_flags(['--torchcompile', 'inductor']) == read_flags(['--torchcompile']) == {'torchcompile': True}
    with pytest.raises(ValueError, match='unknown arguments: inductor'):
        read_flags(['--no-torchcompile', 'inductor'])


def test_no_aug_leaves_images_as_they_are(run_cli, tmp_path):
    seen = {}
    for experiment, more in (('with', ()), ('without', ('--no-aug',)), ('same', ('--pad', '0', '--hflip', '0'))):
        code, _, err = run_cli(*TINY, '--epochs', '1', *more, '--experiment', experiment)
        assert code == 0, err
        record = json.loads((tmp_path / 'runs' / experiment / 'run.json').read_text())
        assert record['settings']['no_aug'] is (experiment == 'without')
        seen[experiment] = record['weights_sha256']
    assert seen['without'] == seen['same'] != seen['with']


def test_what_is_trained_with_where_nothing_is_said():
    config = TrainConfig()
    optimizer = (config.opt, config.lr, config.momentum, config.weight_decay)
    assert optimizer == ('sgd', 0.1, 0.9, 5e-4)
    assert (config.epochs, config.batch_size, config.sched) == (200, 64, 'cosine')
    drops = (config.decay_milestones, config.decay_epochs, config.decay_rate, config.warmup_lr)
    assert drops == ((60, 120, 160), 90.0, 0.1, 1e-5)
    assert (config.mixup_prob, config.mixup_switch_prob, config.mixup_mode) == (1.0, 0.5, 'batch')
    assert (config.model_ema_decay, config.color_jitter, config.train_crop_mode) == (0.999, 0.4, 'rrc')
    assert (config.seed, config.val_split, config.best_on, config.validation_batch_size) == (42, 0.1, 'val', 256)


def test_config_round_trip():
    config = TrainConfig(alpha=(0.5, 1.0), beta=((0.0, 1.0), (1.0, 0.0)), taps=(0, 'layer2'), model_kwargs={'a': 1})
    again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert set(FREE) < set(config.to_dict())
    assert not set(FREE) & set(config.fixed())


def test_the_best_is_exported_not_the_last(run_cli, tmp_path, monkeypatch):
    falling = iter(range(99, 0, -1))
    figures = lambda *_, **__: {'loss': 1.0, 'top1': float(next(falling)), 'top5': 100.0}  # noqa: E731
    monkeypatch.setattr('dkszoo.engine.trainer.evaluate', figures)
    code, out, err = run_cli(*TINY, '--export', 'o.safetensors')
    assert code == 0, err
    card = json.loads((tmp_path / 'o.json').read_text())
    assert (card['epoch'], card['metric']) == (0, 99.0)
    assert 'test accuracy, best epoch, 1 on val: ' in out
    last = read_checkpoint(tmp_path / 'runs/tiny/last.pth.tar')
    hashed = json.loads((tmp_path / 'runs/tiny/run.json').read_text())['weights_sha256']
    assert hashed == state_hash(last['state_dict'], last['task_state'])  # of the last


def test_the_best_epoch_is_tested_with_its_own_branches(run_cli, tmp_path, monkeypatch):
    falling = iter((90.0, 80.0))
    monkeypatch.setattr(Trainer, 'evaluate', lambda *_: {'loss': 1.0, 'top1': next(falling), 'top5': 100.0})
    assert run_cli(*TINY)[0] == 0
    best = json.loads((tmp_path / 'runs/tiny/run.json').read_text())['result']['best']
    out = run_cli('validate', '--checkpoint', 'runs/tiny/model_best.pth.tar', '--device', 'cpu', '--per-branch')[1]
    figures = json.loads(out.splitlines()[-1])
    assert 'branch1_top1' in best
    assert {key: figures[key] for key in best} == best


def test_the_first_of_all_processes_tells(monkeypatch):
    """Not the first of every machine."""

    def refuse(*_):
        raise ValueError('refused')

    levels = []
    monkeypatch.setattr(train, 'setup_default_logging', levels.append)
    monkeypatch.setattr(train.engine, 'prepare', refuse)
    monkeypatch.setenv('LOCAL_RANK', '0')
    for rank in ('0', '8'):
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(ValueError, match='refused'):
            train.carry_out(TrainConfig(), [], None)
    assert levels == [logging.INFO, logging.WARNING]


def test_several_commands_in_one_process_say_all_once(tmp_path, monkeypatch, capsys):
    """As in a notebook."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, 'handlers', [])
    level = logging.root.level
    for said in (1, 2):
        assert main([*TINY, '--epochs', '1', '--experiment', str(said)]) == 0
        assert capsys.readouterr().err.count('branches: design') == 1
    assert (logging.root.handlers, logging.root.level) == ([], level)
