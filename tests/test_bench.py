"""`dkszoo bench`: every part is there, the parts make the whole, and the hours follow from the figures."""

import itertools
import json
from types import SimpleNamespace

import pytest
import timm
import torch

from dkszoo.cli.bench import has_images, make_setup, predict, random_data, random_teacher
from dkszoo.engine import TrainConfig, timing

SMALL = ('--steps', '2', '-b', '4', '--workers', '0', '--validation-batch-size', '5', '--device', 'cpu')


def bench(run_cli, *argv) -> tuple[dict, str]:
    code, out, err = run_cli('bench', *argv, *SMALL)
    assert code == 0, err
    return json.loads(out.splitlines()[-1]), out


def test_random_images(run_cli):
    result, out = bench(run_cli, 'cifar_resnet8', '--method', 'dks')
    assert result['model'] == 'cifar_resnet8'
    assert result['loader'] == 'memory'
    assert list(result['parts_ms']) == ['data', 'backbone', 'branches', 'terms', 'backward', 'optimizer', 'other']
    assert min(result['parts_ms'].values()) > 0
    assert result['images_per_second'] == pytest.approx(4000 / result['step_ms'])
    assert result['peak_memory_mib'] > 1
    assert result['amp'] == ''
    assert 'recipe' not in result
    assert 'images/s' in out


def test_figures_are_of_one_step_and_of_all_images(run_cli, monkeypatch):
    """By a clock that goes on by a second whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(timing, 'time', SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    result, _ = bench(run_cli, 'cifar_resnet8', '--method', 'dks')
    assert (result['parts_ms']['data'], result['parts_ms']['optimizer']) == (1000, 1000)
    assert result['eval_images_per_second'] == 10  # two batches of five


def test_whole_batches_are_timed():
    sampler = SimpleNamespace(total=10, global_batch=4, set_position=lambda epoch: None)
    batches = timing.endless(SimpleNamespace(sampler=sampler, loader=[(4, 'a'), (4, 'b'), (2, 'c')]))
    assert [next(batches)[:3] for _ in range(4)] == [(0, 0, 4), (0, 1, 4), (1, 0, 4), (1, 1, 4)]
    sampler.total = 3
    with pytest.raises(ValueError, match=r'3 training images are fewer than a batch \(give a smaller --batch-size\)'):
        next(timing.endless(SimpleNamespace(sampler=sampler, loader=[])))


@pytest.mark.parametrize('steps', [3, 20, 25])
def test_a_step_that_was_held_up_does_not_count(monkeypatch, steps):
    now, done = [0.0], []

    def step() -> None:
        done.append(None)
        now[0] += 50.0 if len(done) == 2 else 1.0

    monkeypatch.setattr(timing, 'time', SimpleNamespace(perf_counter=lambda: now[0]))
    assert timing.time_whole(timing.Clock(torch.device('cpu')), step, steps) == 1.0
    assert len(done) == steps


def test_a_method_without_branches_on_a_model_of_timms(run_cli):
    result, _ = bench(run_cli, '--model', 'test_resnet', '--method', 'baseline', '--img-size', '96', '--amp')
    assert 'branches' not in result['parts_ms']
    assert (result['loader'], result['amp']) == ('timm', 'float16')


def test_hours_of_a_recipe_without_its_data(run_cli, tmp_path):
    recipe = tmp_path / 'mine.yaml'
    recipe.write_text(
        'dataset: torch/cifar100\nmodel: cifar_resnet8\nmethod: dskd\nkd_model_name: cifar_resnet14\n'
        'epochs: 7\nval_split: 0.1\nlabel_noise: 0.5\n'
    )
    result, out = bench(run_cli, '--config', recipe)
    assert result['parts_ms']['teacher'] > 0
    prediction = result['recipe']
    assert (prediction['epochs'], prediction['train_images']) == (7, 45_000)
    training = 7 * (45_000 // 4) * result['step_ms'] / 1000
    evaluation = (7 * 5_000 + 2 * 10_000) / result['eval_images_per_second']
    assert prediction['hours'] == pytest.approx((training + evaluation) / 3600)
    assert '7 epochs of 45,000 images' in out


def test_random_images_are_of_no_named_classes():
    config, data = random_data(TrainConfig(model='cifar_resnet8', dataset='torch/fashion_mnist'), 8)
    assert not data.classes  # a teacher that has names is not compared with any
    assert config.num_classes == 10


def test_hours_are_of_the_images_that_are_looked_at():
    settings = dict(epochs=2, batch_size=64, train_num_samples=640, val_split=0.1, eval_test_every_epoch=True)
    result = {'step_ms': 1000.0, 'eval_images_per_second': 10.0}
    for processes, steps in ((1, 10), (2, 5)):
        setup = SimpleNamespace(data=None, world=SimpleNamespace(size=processes))
        found = predict(TrainConfig(dataset='torch/cifar100', **settings), setup, result)
        assert found['train_images'] == 640
        assert found['hours'] == pytest.approx((2 * steps + (2 * 15_000 + 2 * 10_000) / 10) / 3600)


def test_hours_with_real_data():
    data = SimpleNamespace(train=range(90), val=range(10), test=range(40))
    setup = SimpleNamespace(data=data, world=SimpleNamespace(size=1))
    result = {'step_ms': 1000.0, 'eval_images_per_second': 10.0}
    found = predict(TrainConfig(dataset='digits', epochs=2, batch_size=30), setup, result)
    assert found['hours'] == pytest.approx((2 * 3 + (2 * 10 + 2 * 40) / 10) / 3600)


def test_random_images_are_such_as_were_asked_for():
    asked = {'img_size': 40, 'num_classes': 7, 'in_chans': 1}
    config, data = random_data(TrainConfig(dataset='torch/cifar100', model='cifar_resnet8', **asked), 64)
    assert {key: getattr(config, key) for key in asked} == asked
    assert data.train[0][0].size == (40, 40)
    assert {int(target) for _, target in data.train} == set(range(7))


def test_images_are_random_ones_where_no_data_is_named(run_cli, monkeypatch):
    asked = []
    monkeypatch.setattr('dkszoo.cli.bench.make_setup', lambda *args: asked.append(args[0]) or make_setup(*args))
    bench(run_cli, 'cifar_resnet8', '--method', 'baseline')
    assert [config.dataset for config in asked] == ['']


def test_images_of_a_folder_are_no_random_ones():
    assert has_images(TrainConfig(dataset='torch/cifar100', data_dir='D'))
    assert not has_images(TrainConfig(dataset='torch/cifar100'))


def test_random_images_are_as_many_as_are_timed():
    fewer = dict(train_num_samples=2000, val_split=0.5)
    _, data = random_data(TrainConfig(model='cifar_resnet8', dataset='torch/cifar100', **fewer), 8)
    assert len(data.train) == 8


def test_a_teacher_that_was_given_is_taken(tmp_path):
    config = TrainConfig(
        method='kd', kd_model_name='cifar_resnet8', kd_checkpoint='mine.pth', num_classes=2, in_chans=1
    )
    assert random_teacher(config, tmp_path).kd_checkpoint == 'mine.pth'


def test_a_random_teacher_takes_the_images_of_its_pupil(tmp_path):
    config = TrainConfig(method='kd', kd_model_name='cifar_resnet8', num_classes=2, in_chans=1)
    state = torch.load(random_teacher(config, tmp_path).kd_checkpoint, weights_only=True)
    assert (state['conv1.weight'].shape[1], len(state['fc.weight'])) == (1, 2)


def test_real_images(run_cli):
    result, _ = bench(run_cli, '--config', 'quickstart', '--train-num-samples', '9', '--loader', 'timm')
    assert result['recipe']['train_images'] == 9
    assert result['loader'] == 'timm'


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['cifar_resnet9'], 'unknown model'),
        (['cifar_resnet8', '--model', 'cifar_resnet8'], 'the same setting'),
        (['cifar_resnet8', '--steps', '0'], '--steps'),
        *((['cifar_resnet8', flag, '1'], f'unknown arguments: {flag}') for flag in ('--export', '--log-interval')),
        (['--config', 'quickstart', '--dataset', 'hfds/unknown'], 'size of data set'),
        (['cifar_resnet8', '--loader', 'memory', '--aa', 'rand-m9'], '--loader timm'),
        (['vit_tiny_patch16_224', '--img-size', '32', '--method', 'baseline'], 'does not take 32x32 images'),
    ],
)
def test_mistakes(run_cli, argv, message):
    code, _, err = run_cli('bench', '--steps', '1', '-b', '2', '--device', 'cpu', *argv)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_the_backward_pass_of_a_step_that_only_accumulates_counts(run_cli, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(timing, 'time', SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    result, _ = bench(run_cli, 'cifar_resnet8', '--method', 'dks', '--grad-accum-steps', '2')
    assert (result['parts_ms']['backward'], result['parts_ms']['optimizer']) == (1000, 500)


@pytest.mark.parametrize('given', [{'pretrained': True}, {'initial_checkpoint': 'gone.pth'}])
def test_speed_is_measured_without_weights(given):
    config, _ = random_data(TrainConfig(model='cifar_resnet20', dataset='torch/cifar100', **given), 8)
    assert not any(getattr(config, key) for key in given)


@pytest.mark.parametrize(
    ('model', 'side', 'num_classes'), [('test_resnet', 160, 1000), ('vit_tiny_patch16_224.augreg_in21k', 224, 21843)]
)
def test_random_images_are_such_as_the_model_is_made_for(model, side, num_classes):
    config, data = random_data(TrainConfig(model=model, dataset='', method='baseline'), 8)
    assert (config.num_classes, data.train[0][0].size) == (num_classes, (side, side))


def test_random_images_are_such_as_the_model_of_a_folder_is_made_for(tmp_path):
    timm.models.save_for_hf(timm.create_model('cifar_resnet8', num_classes=4), tmp_path, safe_serialization=True)
    config, data = random_data(TrainConfig(model=f'local-dir:{tmp_path}', dataset='', method='baseline'), 8)
    assert (config.num_classes, data.train[0][0].size) == (4, (32, 32))
