"""Every setting does what it says: what a run is made of, and what one step does."""

import dataclasses
import errno
import json

import pytest
import timm
import torch
from setups import made
from torch.nn import functional as F

import dkszoo
from benchmarks.reliability.runs import PLAIN
from dkszoo.engine import TrainConfig
from dkszoo.engine.checkpoint import describe_model
from dkszoo.engine.config import FREE, same_setting
from dkszoo.engine.create import load_body
from dkszoo.engine.data import open_data, warn_of_crop
from dkszoo.engine.optim import build_optimizer, load_optimizer
from dkszoo.engine.record import differences, fingerprint, new_record
from dkszoo.engine.run import warn_of_average, warn_of_warmup
from dkszoo.engine.setup import build
from dkszoo.engine.step import Stepper
from dkszoo.engine.sums import Sums
from dkszoo.engine.world import World
from dkszoo.weights import sha256


@pytest.mark.filterwarnings('ignore:It is highly recommended to have .opt_einsum')
def test_an_optimizer_that_draws_is_for_one_process():
    config = TrainConfig(opt='kron', method='baseline', train_num_samples=20, device='cpu')
    with pytest.raises(ValueError, match='--opt kron draws different random numbers in every process'):
        build(*open_data(config), World(torch.device('cpu'), 0, 2))


def test_further_arguments_of_the_optimizer():
    asked = {'eps': 0.001, 'betas': (0.5, 0.7)}
    optimizer = made(opt='adamw', opt_kwargs=asked).optimizer
    assert all(asked.items() <= group.items() for group in optimizer.param_groups)
    for more in ({'epsilon': 1}, {'lr': 1}):
        with pytest.raises(ValueError, match=f"cannot make optimizer 'adamw': .*'{next(iter(more))}'"):
            made(opt='adamw', opt_kwargs=more)
    earlier = made(opt='adamw', opt_kwargs={'eps': 0.1}).optimizer.state_dict()
    for keep, eps in (((), 0.1), (('eps',), 0.001)):
        load_optimizer(optimizer, earlier, keep)
        assert optimizer.param_groups[0]['eps'] == eps
        assert optimizer.param_groups[0]['betas'] == (0.9, 0.999)
        optimizer = made(opt='adamw', opt_kwargs=asked).optimizer


def test_switches_of_an_optimizer_are_kept_with_its_other_settings():
    """The class alone, not its name, is that of the file's optimizer: sgd and momentum differ in a switch."""
    earlier = made(opt='momentum', lr=0.5).optimizer.state_dict()
    for keep, nesterov in (((), False), (('lr',), True)):
        optimizer = made(opt='sgd').optimizer
        load_optimizer(optimizer, earlier, keep)
        assert {group['nesterov'] for group in optimizer.param_groups} == {nesterov}


@pytest.mark.parametrize('asked', [False, True])
def test_deterministic_algorithms(monkeypatch, asked):
    cudnn = torch.backends.cudnn
    for name, before in (('deterministic', False), ('benchmark', True)):
        monkeypatch.setattr(cudnn, name, before)
    made(deterministic=asked)
    assert (cudnn.deterministic, cudnn.benchmark) == (asked, not asked)


def test_the_criterion():
    logits, labels = torch.tensor([[2.0] + 9 * [0.0]]), torch.tensor([0])
    loss = lambda **settings: made(**settings).task.trainable_module.criterion(logits, labels).item()  # noqa: E731
    plain = loss()
    assert plain == pytest.approx(F.cross_entropy(logits, labels).item())
    assert loss(smoothing=0.1) == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.1).item())
    assert loss(bce_loss=True) != pytest.approx(plain)
    sure = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 10).float()).item()
    assert loss(bce_loss=True, smoothing=0.3) != pytest.approx(sure)
    assert loss(bce_loss=True, smoothing=0.3, bce_target_thresh=0.2) == pytest.approx(sure)
    labels = torch.full((1, 10), 0.1)  # of mixed images, which are smoothed already
    assert loss(mixup=0.2, smoothing=0.1) == pytest.approx(F.cross_entropy(logits, labels).item())


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (RuntimeError('out of memory'), 'training failed, see above (the same command resumes from what is saved)'),
        (OSError(errno.EMFILE, 'Too many'), '[Errno 24] Too many (give fewer --workers; the same command resumes'),
        (OSError(errno.ENOSPC, 'Full'), '[Errno 28] Full (free some space or repair the disk; the same command'),
    ],
)
def test_what_ends_a_run_is_said_in_one_line(run_cli, at_step, error, message):
    at_step(3, lambda *_: (_ for _ in ()).throw(error))
    code, _, err = run_cli(*PLAIN)
    assert code == 1
    assert err.splitlines()[-1].startswith(f'dkszoo: error: {message}')


def test_what_settings_make():
    assert made(mixup=0.2).mixup.label_smoothing == 0  # timm's own default is 0.1
    assert made(mixup=0.2, smoothing=0.3).mixup.label_smoothing == 0.3
    assert made(model_ema=True, model_ema_decay=0.5).task.trainable_module_ema.decay == 0.5
    average = made(model_ema=True, model_ema_warmup=True).task.trainable_module_ema
    assert average.get_decay(2) < average.get_decay(50) < average.get_decay(10**6) == 0.999
    assert made(drop=0.3).task.get_net().backbone.drop_rate == 0.3
    assert made(pad_mode='reflect').loader.augmentation.pad_mode == 'reflect'
    dropped = made(model='resnet18', model_kwargs=None, drop_path=0.2).task.get_net().modules()
    assert max(m.drop_prob for m in dropped if hasattr(m, 'drop_prob')) == pytest.approx(0.2)


def test_norms_and_biases_are_not_decayed_if_asked():
    net = dkszoo.attach_branches(timm.create_model('cifar_resnet8', num_classes=5))
    trainable = dkszoo.DeepSupervisionTask(net, 'ds').get_trainable_module()
    for filtered in (True, False):
        config = TrainConfig(weight_decay=0.1, filter_bias_and_bn=filtered)
        groups = build_optimizer(config, trainable).param_groups
        found = {(g['weight_decay'] == 0, p.ndim == 1) for g in groups for p in g['params']}
        assert found == ({(True, True), (False, False)} if filtered else {(False, True), (False, False)})


@pytest.fixture
def losses(monkeypatch):
    """The losses that are propagated back, as shares of the batch's own; parameters stay as they are."""
    shares, plain = [], Stepper.backward

    def noted(self, loss, update):
        shares.append(loss.item() / self.result['loss'].item())
        plain(self, loss, update)

    def keep(self, result, step):
        self.result = result

    monkeypatch.setattr(Stepper, 'backward', noted)
    monkeypatch.setattr(Stepper, 'check_finite', keep)
    return shares


def test_the_last_group_of_an_epoch_may_be_smaller(losses):
    setup = made(grad_accum_steps=2, model_ema=True, train_num_samples=48)  # three steps
    stepper, averaged = Stepper(setup), []
    setup.task.update_ema = lambda step: averaged.append(step)
    images, labels = torch.randn(4, 1, 32, 32), torch.arange(4)
    updates = 0
    for step in range(3):
        updates += stepper(images, labels, step, updates)[1]
    assert losses == pytest.approx([0.5, 0.5, 1.0])
    assert averaged == [1, 2]


@pytest.mark.parametrize('clip_grad', [None, 1e-3])
def test_clipping(clip_grad):
    setup = made(opt='momentum', momentum=0.0, weight_decay=0.0, lr=1.0, clip_grad=clip_grad)
    before = torch.cat([p.detach().flatten().clone() for p in setup.task.parameters()])
    Stepper(setup)(torch.randn(4, 1, 32, 32), torch.arange(4), 0, 0)
    moved = (torch.cat([p.detach().flatten() for p in setup.task.parameters()]) - before).norm().item()
    assert moved == pytest.approx(1e-3 * setup.optimizer.param_groups[0]['lr'], rel=1e-2) if clip_grad else moved > 0.01


def test_training_figures_are_means_over_samples():
    sums = Sums({}, torch.device('cpu'))
    for loss, count in ((1.0, 3), (4.0, 1)):
        sums.add({'loss': torch.tensor(loss), 'output': torch.eye(3)[:count]}, torch.arange(count))
    assert sums.means() == {'loss': 1.75, 'top1': 100.0}


def test_each_head_has_an_accuracy_of_its_own():
    sums, right, wrong = Sums({}, torch.device('cpu')), torch.eye(3), torch.eye(3).roll(1, 1)
    result = {'loss': torch.tensor(1.0), 'output': right, 'branch_output': [wrong, right]}
    sums.add(result, torch.arange(3))
    assert sums.means() == {'loss': 1.0, 'top1': 100.0, 'branch0_top1': 0.0, 'branch1_top1': 100.0}


def test_figures_go_on_from_what_there_was():
    """To the last bit, of other heads and terms, too."""
    output, labels = torch.eye(3), torch.arange(3)
    steps = [{'loss': torch.tensor(0.1 * i), 'output': output, 'branch_output': [output]} for i in range(4)]
    whole, first = (Sums({}, torch.device('cpu')) for _ in range(2))
    for step in steps:
        whole.add(step, labels)
    for step in steps[:2]:
        first.add(step, labels)
    second = Sums(first.to_dict(), torch.device('cpu'))
    before = second.copy()
    for step in steps[2:]:
        second.add(step, labels)
    assert second.to_dict() == whole.to_dict()
    assert before.to_dict() == first.to_dict()
    second.add({'loss': torch.tensor(1.0), 'kd': torch.tensor(2.0), 'output': output}, labels)
    assert second.to_dict()['kd'] == 6.0
    assert second.to_dict()['branch0_top1'] == whole.to_dict()['branch0_top1']
    assert not Sums({}, torch.device('cpu')).to_dict()


def test_a_checkpoint_says_how_images_are_evaluated():
    how = {'crop_mode': 'squash', 'crop_pct': 0.9, 'interpolation': 'bicubic'}
    model = describe_model(made(**how, channels_last=True, validation_batch_size=5))
    assert model['evaluation'] == {'batch_size': 5, 'channels_last': True}
    assert {key: model['data'][key] for key in how} == how
    assert describe_model(made(method='ds', branches='dks', taps=(1,)))['taps'] == [1]


def test_a_record_knows_the_first_weights(tmp_path):
    setup = made()
    (tmp_path / 'first.pth').write_bytes(b'abc')
    setup = dataclasses.replace(
        setup, config=dataclasses.replace(setup.config, initial_checkpoint=str(tmp_path / 'first.pth'))
    )
    record = new_record(setup, [], '')
    assert record['initial_checkpoint_sha256'] == sha256(tmp_path / 'first.pth')
    assert record['kd_checkpoint_sha256'] is None


def test_first_weights_without_a_classifier_are_refused():
    net = timm.create_model('cifar_resnet8', num_classes=5)
    state = {key: value for key, value in net.state_dict().items() if not key.startswith('fc.')}
    with pytest.raises(ValueError, match=r"first\.pth does not fit the model: it lacks 'fc\.weight'"):
        load_body(net, state, 'first.pth')


def test_one_value_for_all_channels():
    config = open_data(TrainConfig(in_chans=3, mean=(0.5,), std=(0.1, 0.2, 0.3)))[0]
    assert (config.mean, config.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


def test_seeds_of_data():
    """What is held out is one choice for all seeds; which labels are wrong follows a seed of its own."""
    held = lambda seed: open_data(TrainConfig(seed=seed))[1].val.indices  # noqa: E731
    assert held(1) == held(2)
    flips = lambda **settings: open_data(TrainConfig(label_noise=0.5, **settings))[1].flips  # noqa: E731
    assert flips(noise_seed=3) == flips(noise_seed=3, seed=7) != flips(noise_seed=4)


def test_first_values_of_a_projection_do_not_depend_on_the_teacher(tmp_path):
    found = []
    for name in ('cifar_resnet8', 'cifar_resnet14'):
        torch.save(timm.create_model(name, num_classes=10, in_chans=1).state_dict(), tmp_path / f'{name}.pth')
        task = made(method='fitnet', kd_checkpoint=str(tmp_path / f'{name}.pth')).task
        found.append(torch.cat([p.flatten() for p in task.get_trainable_module().terms.parameters()]))
    assert torch.equal(*found)


def test_training_draws_from_a_seed_of_its_own():
    """Which is as it was for all runs on record; each process has one."""
    setup = made(seed=5)
    assert torch.initial_seed() == 6
    build(setup.config, setup.data, World(setup.world.device, rank=1))
    assert torch.initial_seed() == 7


@pytest.mark.parametrize(
    ('img_size', 'asked', 'said'),
    [
        (64, {'scale': (0.5, 1.0), 'train_crop_mode': 'rkrc', 'pad': 1}, 'of 64 px: --train-crop-mode, --scale ('),
        (65, {'scale': (0.5, 1.0), 'pad_mode': 'reflect', 'pad': 0}, 'of 65 px: --pad, --pad-mode ('),
        (65, {'ratio': (1.0, 1.0), 'train_crop_mode': 'squash', 'color_jitter': 0.9}, ': --ratio, --color-jitter ('),
        (65, {'color_jitter': 0.9, 'aa': 'v0'}, ': --color-jitter ('),
        (32, {'color_jitter': 0.9}, ': --color-jitter ('),
        (32, {'color_jitter': 0.9, 'aa': '3a'}, None),
        (65, {'color_jitter': 0.9}, None),
        (32, {'color_jitter': 0.0}, None),
        (65, {'scale': (0.5, 1.0), 'pad': 2}, None),  # as recorded: what digits have
        (32, {'pad': 1}, None),
        (32, {'ratio': (1.0, 1.0), 'no_aug': True}, None),
    ],
)
def test_settings_of_crops_that_images_do_not_get(caplog, img_size, asked, said):
    warn_of_crop(TrainConfig(**{'pad': 2, **asked, 'img_size': img_size}))
    assert (said or '') in caplog.text
    assert bool(said) == bool(caplog.text)


@pytest.mark.parametrize(('epochs', 'warned'), [(2, True), (3, True), (4, False)])
def test_a_run_that_ends_in_its_warm_up_is_said(caplog, epochs, warned):
    warn_of_warmup(TrainConfig(epochs=epochs, warmup_epochs=3))
    assert (f'--warmup-epochs 3 of {epochs} epochs' in caplog.text) == warned


def test_settings_that_do_not_count():
    assert set(FREE) == {
        *('workers', 'log_interval', 'recovery_interval', 'skip_nonfinite', 'export'),
        *('output', 'experiment', 'resume', 'overwrite'),
    }


@pytest.mark.parametrize(
    ('epochs', 'decay', 'said'),
    [
        (
            *(1, 0.9),
            'over 4 updates: 73 % of the average will be the weights after the first one '
            '(0.215443 leaves 1 %, --model-ema-warmup almost nothing)',
        ),
        (60, 0.9, None),
        (1, 0.1, None),
    ],
)
def test_an_average_that_stays_the_beginning_is_said(caplog, epochs, decay, said):
    """Seven steps an epoch, two of them an update."""
    settings = dict(model='cifar_resnet8', device='cpu', train_num_samples=100, batch_size=16, grad_accum_steps=2)
    config = TrainConfig(epochs=epochs, model_ema=True, model_ema_decay=decay, **settings)
    setup = build(*open_data(config), World(torch.device('cpu')))
    warn_of_average(dataclasses.replace(setup, config=dataclasses.replace(config, model_ema_warmup=True)))
    assert '--model-ema' not in caplog.text
    warn_of_average(setup)
    assert ('--model-ema-decay' in caplog.text) == (said is not None)
    assert (said or '') in caplog.text
    if said:  # what timm's average does: weights of 0 but after the first update, where they are 1
        for step, value in ((1, 1.0), (2, 0.0), (3, 0.0), (4, 0.0)):
            setup.task.get_net().backbone.fc.weight.data.fill_(value)
            setup.task.update_ema(step=step)
        averaged = setup.task.trainable_module_ema.module.net.backbone.fc.weight
        torch.testing.assert_close(averaged, torch.full_like(averaged, 0.9**3))


def test_tuples_are_the_lists_that_args_yaml_holds():
    config = TrainConfig(model_kwargs={'channels': (2, 4), 'more': {'of': (1,)}})
    assert config.to_dict()['model_kwargs'] == {'channels': [2, 4], 'more': {'of': [1]}}


@pytest.mark.parametrize('name', ['data_dir', 'initial_checkpoint', 'kd_checkpoint'])
def test_a_path_may_be_written_otherwise(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert same_setting(name, 'a/../file', str(tmp_path / 'file'))
    assert not same_setting(name, 'file', '')
    assert not same_setting('experiment', 'a/../file', 'file')


def test_a_recipe_is_told_of_kinds():
    for settings, says in (
        (dict(std=0.25), 'std must be a list, got'),
        (dict(alpha='x'), 'alpha must be float or a list'),
        (dict(lr=True), 'lr must be float, got True'),
        (dict(lr=10**400), 'lr must be float, got a number of 401 digits'),
    ):
        with pytest.raises(ValueError, match=says):
            TrainConfig.from_dict(settings)


def test_a_range_may_be_one_number():
    config = TrainConfig(scale=(0.5, 0.5), ratio=(1.0, 1.0))
    assert (config.scale, config.ratio) == ((0.5, 0.5), (1.0, 1.0))


def test_every_change_of_what_a_run_was_made_in_is_said():
    keys = ('threads', 'processes', 'device', 'dataset_sha256', 'kd_checkpoint_sha256')
    keys += ('initial_checkpoint_sha256', 'resume_sha256', 'git_commit')
    record = {'versions': {}, **dict.fromkeys(keys, 'one')}
    for key in keys:
        assert len(differences(record, {**record, key: 'other'})) == 1, key


@pytest.mark.parametrize('part', ['train', 'test'])
@pytest.mark.parametrize('what', ['label', 'label that only its image tells', 'pixel'])
def test_the_fingerprint_is_of_both_sets(monkeypatch, part, what):
    index = 1  # of an image that is not looked at
    if what == 'label that only its image tells':
        monkeypatch.setattr('dkszoo.engine.record.class_targets', lambda _: None)
        index = 0
    data = open_data(TrainConfig())[1]
    before = fingerprint(data)
    base = getattr(data, part).base
    if what != 'pixel':
        base.targets = [*base.targets]
        base.targets[index] = (base.targets[index] + 1) % 10
    else:
        base.images = base.images.copy()
        base.images[-1, 0, 0] ^= 1
    assert fingerprint(data) != before
    before = fingerprint(data)
    assert fingerprint(dataclasses.replace(data, classes=data.classes[::-1])) != before


def test_of_equal_epochs_the_later_one_is_best(run_cli, tmp_path, monkeypatch):
    monkeypatch.setattr('dkszoo.engine.trainer.evaluate', lambda *_, **__: {'loss': 1.0, 'top1': 50.0, 'top5': 90.0})
    argv = ('train', '--config', 'quickstart', '--method', 'baseline', '--branches', 'none', '--epochs', '3')
    small = '--model-kwargs channels=[4,8,16] stem_chs=4 --batch-size 256 --device cpu --workers 0'.split()
    code, _, err = run_cli(*argv, *small, '--experiment', 'equal')
    assert code == 0, err
    record = json.loads((tmp_path / 'runs/equal/run.json').read_text())
    assert record['result']['best_epoch'] == 2
