"""`dkszoo bench`: every part is there, the parts make the whole, and the hours follow from the figures."""

import json

import pytest

SMALL = ('--steps', '2', '-b', '4', '--workers', '0', '--validation-batch-size', '4', '--device', 'cpu')


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
    assert 'recipe' not in result
    assert 'images/s' in out


def test_a_method_without_branches_on_a_model_of_timms(run_cli):
    result, _ = bench(run_cli, '--model', 'test_resnet', '--method', 'baseline', '--img-size', '96', '--amp')
    assert 'branches' not in result['parts_ms']
    assert result['loader'] == 'timm'


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
