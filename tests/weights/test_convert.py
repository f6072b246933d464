"""Checkpoints of every known format: recognised, complete, and the same function."""

import argparse
import logging
import re

import peers
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
import torchvision
from peers import NETWORKS, filled, fixture, hollow, recipe
from timm.utils import CheckpointSaver

import dkszoo
from dkszoo.deploy import convert_file
from dkszoo.weights import sha256

EVAL, TRAIN = 2e-5, 2e-4  # of the largest logit


def assert_near(actual, expected, tolerance):
    scale = expected.abs().max()
    assert actual.shape == expected.shape
    assert 0 < scale < float('inf')
    assert (actual - expected).abs().max() <= tolerance * scale


def built(converted, assign=False):
    """The network with its branches that a `Converted` describes, strictly loaded."""
    net = dkszoo.create_model(converted.model, **converted.model_kwargs)
    if converted.design:
        net = dkszoo.attach_branches(net, converted.design)
        net.branches.load_state_dict(converted.branches, assign=assign)
    dkszoo.strip(net).load_state_dict(converted.backbone, assign=assign)
    return net


def all_logits(net, x):
    out = net(x)
    return [out] if isinstance(out, torch.Tensor) else [out.logits, *out.branch_logits]


# -- files as the peers write them -------------------------------------------------------------------------------------


def prefixed(state, prefix='module.'):
    return {prefix + key: value for key, value in state.items()}


def peer_file(peer, state, path):
    """Write a state dict the way a peer's training does."""
    optimizer = {'state': {}, 'param_groups': [{'lr': 0.1, 'params': [0]}]}
    if peer == 'DKS':
        for value in state.values():
            value.requires_grad_(value.is_floating_point())
        torch.save({'params': state, 'epoch': 200, 'optimizer': optimizer}, path, _use_new_zipfile_serialization=False)
    elif peer == 'DHM':
        accuracy = torch.tensor(73.2)
        contents = {'epoch': 164, 'arch': 'resnet32', 'state_dict': prefixed(state), 'best_prec1': accuracy}
        torch.save({**contents, 'optimizer': optimizer}, path)
    elif peer == 'RepDistiller':
        torch.save({'opt': argparse.Namespace(model='wrn_16_2', trial=1), 'model': state}, path)
    elif peer == 'mdistiller':
        teacher = filled(NETWORKS['RepDistiller wrn_40_2'][0])
        model = {**prefixed(state, 'module.student.'), **prefixed(teacher, 'module.teacher.')}
        model['module.conv_reg.conv.weight'] = torch.ones(3)
        torch.save({'epoch': 240, 'model': model, 'optimizer': optimizer, 'best_acc': 75.1}, path)
    else:
        torch.save(state, path)


FIXTURES = {
    'DHM__densenet_40_12': ('cifar_densenet40_12', 'dks', ('x2', 'x1')),
    'DHM__resnet32': ('cifar_resnet32', 'dks', ('x2', 'x1')),
    'DKS__wrn_16_2': ('cifar_wrn16_2', 'dks', ('ep1', 'ep2')),
    'RepDistiller__MobileNetV2': ('cifar_mobilenet_v2_half', None, ()),
    'RepDistiller__ShuffleV2': ('cifar_shufflenet_v2', None, ()),
    'RepDistiller__resnet20': ('cifar_resnet20', None, ()),
    'RepDistiller__resnet8x4': ('cifar_resnet8x4', None, ()),
    'RepDistiller__vgg8': ('cifar_vgg8', None, ()),
    'RepDistiller__wrn_16_2': ('cifar_wrn16_2', None, ()),
    'mdistiller__wrn_16_2': ('cifar_wrn16_2', None, ()),
    'torchvision__resnet18': ('dks_resnet18', None, ()),
}


def test_every_fixture_is_used():
    assert {path.stem for path in (peers.FIXTURES / 'arch').glob('*.json')} == set(FIXTURES)


@pytest.mark.parametrize('reference', FIXTURES)
@torch.no_grad()
def test_logits_of_the_references(reference, tmp_path, caplog):
    data, (name, design, order) = fixture(reference), FIXTURES[reference]
    peer = reference.split('__')[0]
    peer_file(peer, filled(data['keys']), tmp_path / 'file')
    with caplog.at_level(logging.INFO, 'dkszoo.weights'):
        converted = dkszoo.convert(tmp_path / 'file')
    assert (converted.model, converted.design) == (name, design)
    assert not any(value.requires_grad for value in converted.backbone.values())
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert peer in lines[0]
    assert name in lines[0]
    net = built(converted)
    batch, _, size, _ = data['input']['shape']
    x = torch.from_numpy(recipe.model_input(size, batch))
    for train, suffix, tolerance in ((False, '', EVAL), (True, '_train', TRAIN)):
        expected = [data[f'logits{suffix}'], *(data[f'branch_logits{suffix}'][branch] for branch in order)]
        for actual, wanted in zip(all_logits(net.train(train), x), expected, strict=True):
            assert_near(actual, torch.tensor(wanted), tolerance)


# -- networks without a reference in the fixtures ----------------------------------------------------------------------

SAME_KEYS = {
    'DHM__densenet_40_12': 'DHM densenet_40_12',
    'DHM__resnet32': 'DHM resnet32',
    'RepDistiller__resnet20': 'RepDistiller resnet20',
    'RepDistiller__resnet8x4': 'RepDistiller resnet8x4',
    'RepDistiller__vgg8': 'RepDistiller vgg8',
    'RepDistiller__wrn_16_2': 'RepDistiller wrn_16_2',
}


@pytest.mark.parametrize('reference', SAME_KEYS)
def test_our_list_of_the_peers_keys_is_theirs(reference):
    assert [(k, tuple(s)) for k, s in fixture(reference)['keys']] == NETWORKS[SAME_KEYS[reference]][0]


@pytest.mark.parametrize('network', NETWORKS)
def test_every_key_of_every_network_is_placed(network):
    keys, name, *design = NETWORKS[network]
    converted = dkszoo.convert(hollow(keys))
    assert (converted.model, [converted.design]) == (name, design or [None])
    assert (converted.model_kwargs.get('shortcut') == 'pad') == network.startswith('DHM resnet')
    with torch.device('meta'):
        built(converted, assign=True)


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
def test_torchvision_resnets(depth):
    with torch.device('meta'):
        state = getattr(torchvision.models, f'resnet{depth}')(num_classes=7).state_dict()
    keys = [(key, value.shape) for key, value in state.items()]
    for contents in (hollow(keys), prefixed(hollow(keys))):  # torchvision's files, and the official DKS ones
        converted = dkszoo.convert(contents)
        assert converted[:3] == (f'dks_resnet{depth}', {'num_classes': 7, 'in_chans': 3}, None)
        assert list(converted.backbone) == list(state)
        assert dkszoo.convert(contents, f'resnet{depth}').model == f'resnet{depth}'
        plain = {'epoch': 3, 'arch': f'resnet{depth}', 'state_dict': contents}  # of torch's example, and of DHM
        assert dkszoo.convert(plain).model == f'dks_resnet{depth}'


def bn(state, name, x, train):
    mean, var = (state[f'{name}.running_{part}'].clone() for part in ('mean', 'var'))
    return F.batch_norm(x, mean, var, state[f'{name}.weight'], state[f'{name}.bias'], train)


def vgg13(state, x, train):
    for block in range(5):
        for j in (0, 3):
            name = f'block{block}.{j}'
            x = F.conv2d(x, state[f'{name}.weight'], state[f'{name}.bias'], padding=1)
            x = F.relu(bn(state, f'block{block}.{j + 1}', x, train))
        x = F.max_pool2d(x, 2) if block < 3 else x
    return [F.linear(x.mean((2, 3)), state['classifier.weight'], state['classifier.bias'])]


def densenet_bc(state, x, train):
    """Main path, head2, head1: the stages and transitions by name, wherever they are."""

    def run(x, *names):
        for name in names:
            if name.startswith('transition'):
                x = F.conv2d(F.relu(bn(state, f'{name}.bn', x, train)), state[f'{name}.conv.weight'])
                x = F.avg_pool2d(x, 2)
            for i in range(32):
                unit = f'{name}.{i}'
                if f'{unit}.conv1.weight' in state:
                    y = F.conv2d(F.relu(bn(state, f'{unit}.bn1', x, train)), state[f'{unit}.conv1.weight'])
                    y = F.conv2d(F.relu(bn(state, f'{unit}.bn2', y, train)), state[f'{unit}.conv2.weight'], padding=1)
                    x = torch.cat([x, y], 1)
        return x

    def classify(x, suffix):
        x = F.relu(bn(state, f'bn{suffix}', x, train)).mean((2, 3))
        return F.linear(x, state[f'fc{suffix}.weight'], state[f'fc{suffix}.bias'])

    first = run(F.conv2d(x, state['conv1.weight'], padding=1), 'layer1', 'transition1')
    second = run(first, 'layer2', 'transition2')
    early = run(first, 'layer2_head2', 'transition2_head2', 'layer3_head2')
    return [
        classify(run(second, 'layer3'), ''),
        classify(early, '_head2'),
        classify(run(second, 'layer3_head1'), '_head1'),
    ]


@pytest.mark.parametrize(
    ('network', 'reference'), [('RepDistiller vgg13', vgg13), ('DHM densenet_bc_100_12', densenet_bc)]
)
@torch.no_grad()
def test_logits_by_hand(network, reference):
    state = filled(NETWORKS[network][0])
    net = built(dkszoo.convert(state))
    x = torch.from_numpy(recipe.model_input(32, 2))
    for train, tolerance in ((False, EVAL), (True, TRAIN)):
        expected = reference(state, x, train)
        for actual, wanted in zip(all_logits(net.train(train), x), expected, strict=True):
            assert_near(actual, wanted, tolerance)


@torch.no_grad()
def test_dhm_wrn():
    """DHM's WRN is the official DKS one under other names."""
    data = fixture('DKS__wrn_16_2')
    layers = {'bn0': 'bn1', 'conv0': 'conv1', 'bn1': 'bn2', 'conv1': 'conv2', 'convdim': 'shortcut'}

    def rename(key):
        key = re.sub(r'^ep([12])_(\w+)', lambda m: f'{m[2]}_head{3 - int(m[1])}', key)
        key = re.sub(r'^conv0', 'conv.weight', key)
        key = re.sub(r'block(\d)\.(\w+)', lambda m: f'{m[1]}.{layers[m[2]]}', key)
        key = re.sub(r'^group(\d)', lambda m: f'layer{int(m[1]) + 1}', key)
        return key if key.count('.') != 2 else f'{key}.weight'

    state = {rename(key): value for key, value in filled(data['keys']).items()}
    converted = dkszoo.convert(prefixed(state))
    net = built(converted).eval()
    assert (converted.model, converted.design) == ('cifar_wrn16_2', 'dks')
    wanted = [data['logits'], data['branch_logits']['ep1'], data['branch_logits']['ep2']]
    for actual, expected in zip(all_logits(net, torch.from_numpy(recipe.model_input(32, 4))), wanted, strict=True):
        assert_near(actual, torch.tensor(expected), EVAL)


@torch.no_grad()
def test_repdistiller_resnet50():
    theirs = torchvision.models.resnet50(num_classes=100)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    state = filled([(key, value.shape) for key, value in theirs.state_dict().items()])
    theirs.load_state_dict(state)
    names = {key: key.replace('downsample', 'shortcut').replace('fc.', 'linear.') for key in state}
    assert set(names.values()) == {key for key, _ in NETWORKS['RepDistiller ResNet50'][0]}
    net = built(dkszoo.convert({'model': {names[key]: value for key, value in state.items()}}))
    x = torch.from_numpy(recipe.model_input(32, 2))
    for train, tolerance in ((False, EVAL), (True, TRAIN)):
        assert_near(net.train(train)(x), theirs.train(train)(x), tolerance)


def test_pytorch_cifar_wraps_the_same_network():
    state = hollow((f'module.{key}', shape) for key, shape in NETWORKS['RepDistiller ResNet18'][0])
    converted = dkszoo.convert({'net': state, 'acc': 95.1, 'epoch': 199})
    assert converted[:3] == ('cifar_resnet18', {'num_classes': 100, 'in_chans': 3}, None)
    built(converted)


def test_the_backbone_of_an_hsakd_checkpoint():
    state = hollow((f'module.backbone.{key}', shape) for key, shape in NETWORKS['RepDistiller resnet20'][0])
    state |= hollow([('module.auxiliary_classifier.block_extractor1.0.0.conv1.weight', (32, 16, 3, 3))])
    converted = dkszoo.convert({'net': state, 'acc': 70.2, 'epoch': 239})
    assert converted[:3] == ('cifar_resnet20', {'num_classes': 100, 'in_chans': 3}, None)
    built(converted)
    assert not converted.branches


@torch.no_grad()
def test_imagenet_resnet_with_heads():
    """DHM's ImageNet heads are stages of torchvision's ResNet of other depth and width."""
    block, resnet = torchvision.models.resnet.BasicBlock, torchvision.models.ResNet
    main, early, late = resnet(block, [2, 2, 2, 2]), resnet(block, [1, 1, 1, 2]), resnet(block, [1, 1, 1, 1])
    late.inplanes = 256
    late.layer4, late.fc = late._make_layer(block, 1024, 2, stride=2), torch.nn.Linear(1024, 1000)
    parts = {'layer3_head2': early.layer3, 'layer4_head2': early.layer4, 'fc_head2': early.fc}
    parts |= {'layer4_head1': late.layer4, 'fc_head1': late.fc}
    state = main.state_dict()
    for name, part in parts.items():
        state.update(prefixed(part.state_dict(), f'{name}.'))
    state = filled([(key, value.shape) for key, value in state.items()])
    main.load_state_dict({key: value for key, value in state.items() if '_head' not in key})
    for name, part in parts.items():
        part.load_state_dict(
            {key.removeprefix(f'{name}.'): v for key, v in state.items() if key.startswith(f'{name}.')}
        )
    converted = dkszoo.convert(prefixed(state))
    assert converted[:3] == ('dks_resnet18', {'num_classes': 1000, 'in_chans': 3}, 'dks')
    net, x = built(converted).eval(), torch.from_numpy(recipe.model_input(64, 2))
    for module in (main, *parts.values()):
        module.eval()
    stem = main.maxpool(main.relu(main.bn1(main.conv1(x))))
    second = main.layer2(main.layer1(stem))
    third = main.layer3(second)
    expected = [
        main(x),
        early.fc(early.layer4(early.layer3(second)).mean((2, 3))),
        late.fc(late.layer4(third).mean((2, 3))),
    ]
    for actual, wanted in zip(all_logits(net, x), expected, strict=True):
        assert_near(actual, wanted, EVAL)


# -- ours and timm's ---------------------------------------------------------------------------------------------------


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def own_checkpoint(ema=False):
    net = dkszoo.create_model('cifar_resnet8', num_classes=5, in_chans=1, branches='dks')
    suffixes = ('', '_ema') if ema else ('',)
    contents = {
        'arch': 'cifar_resnet8',
        'version': 2,
        'dkszoo': {
            'model': {'arch': 'cifar_resnet8', 'model_args': {'num_classes': 5, 'in_chans': 1}, 'design': 'dks'}
        },
    }
    for i, suffix in enumerate(suffixes):
        contents[f'state_dict{suffix}'] = {k: v + i for k, v in net.backbone.state_dict().items()}
        contents[f'task_state{suffix}'] = {'branches': {k: v + i for k, v in net.branches.state_dict().items()}}
    return contents


@pytest.mark.parametrize('ema', [False, True])
def test_training_checkpoint_of_ours(ema, tmp_path):
    contents = own_checkpoint(ema)
    torch.save(contents, tmp_path / 'last.pth.tar')
    converted = dkszoo.convert(tmp_path / 'last.pth.tar')
    assert converted[:3] == ('cifar_resnet8', {'num_classes': 5, 'in_chans': 1}, 'dks')
    suffix = '_ema' if ema else ''
    assert equal(converted.backbone, contents[f'state_dict{suffix}'])
    assert equal(converted.branches, contents[f'task_state{suffix}']['branches'])
    built(converted)


@pytest.mark.parametrize(
    'wrapped',
    [
        lambda net: {f'model.{key}': value for key, value in net.state_dict().items()},
        lambda net: {f'net._orig_mod.{key}': value for key, value in dkszoo.attach_branches(net).state_dict().items()},
        lambda net: {'model_state_dict': net.state_dict(), 'epoch': 3},
        lambda net: {'model': {}, 'model_ema': torch.optim.swa_utils.AveragedModel(net).state_dict()},
    ],
    ids=['a module of a module', 'with branches', 'as in a tutorial', 'averaged'],
)
def test_what_modules_and_loops_put_around_a_network(wrapped):
    net = dkszoo.create_model('cifar_resnet8', num_classes=10)
    converted = dkszoo.convert(wrapped(net))
    assert converted.model == 'cifar_resnet8'
    assert equal(converted.backbone, net.state_dict())


@pytest.mark.parametrize('name', ['model', 'state_dict'])
def test_averaged_weights_beside_the_others(name, tmp_path):
    """As torchvision and timm's users save them: the average is what timm takes, too."""
    own, averaged = (timm.create_model('cifar_resnet8', num_classes=10).state_dict() for _ in range(2))
    torch.save({name: own, 'model_ema': averaged}, tmp_path / 'both.pth')
    assert equal(dkszoo.convert(tmp_path / 'both.pth').backbone, averaged)
    for ema, expected in ((True, averaged), (False, own)):
        convert_file(tmp_path / 'both.pth', tmp_path / 'out.safetensors', ema=ema)
        assert equal(safetensors.torch.load_file(tmp_path / 'out.safetensors'), expected)


def test_timms_saver_of_a_task(tmp_path, caplog):
    """What one's own loop saves; the branches stay out, and it is said."""
    net = dkszoo.create_model('cifar_resnet8', num_classes=10, branches='dks')
    task = dkszoo.DeepSupervisionTask(net)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    args = argparse.Namespace(model='cifar_resnet8')
    saver = CheckpointSaver(net.backbone, optimizer, args, task=task, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    for contents in (tmp_path / 'last.pth.tar', task.state_dict(), net.state_dict()):
        with caplog.at_level(logging.INFO, 'dkszoo.weights'):
            converted = dkszoo.convert(contents)
        assert (converted.model, converted.design, converted.branches) == ('cifar_resnet8', None, {})
        assert equal(converted.backbone, net.backbone.state_dict())
        assert 'without its branches' in caplog.records[-1].getMessage()


def test_a_distributed_task():
    net = dkszoo.create_model('cifar_resnet8', num_classes=10, branches='dks')
    state = {f'trainable_module.module.net.{key}': value for key, value in net.state_dict().items()}
    converted = dkszoo.convert({**state, 'trainable_module.module.weights': torch.ones(1)})
    assert equal(converted.backbone, net.backbone.state_dict())


def test_safetensors_with_and_without_card(tmp_path):
    model = dkszoo.create_model('cifar_resnet8', num_classes=5, shortcut='pad')
    safetensors.torch.save_file(model.state_dict(), path := tmp_path / 'w.safetensors')
    expected = ('cifar_resnet8', {'num_classes': 5, 'in_chans': 3, 'shortcut': 'pad'}, None)
    assert dkszoo.convert(path)[:3] == expected
    card = '{"arch": "cifar_resnet8", "model_args": {"num_classes": 5, "shortcut": "pad"}, "design": "dks"'
    path.with_suffix('.json').write_text(f'{card}, "sha256": "{sha256(path)}"}}')
    converted = dkszoo.convert(path)
    assert converted[:3] == expected
    assert not converted.branches
    assert equal(converted.backbone, model.state_dict())


def test_timm_files(tmp_path):
    model = timm.create_model('mobilenetv3_small_050', num_classes=5)
    contents = {'arch': 'mobilenetv3_small_050', 'state_dict': model.state_dict(), 'version': 2, 'epoch': 3}
    contents['args'] = argparse.Namespace(model_kwargs={'drop_rate': 0.1})
    torch.save(contents, tmp_path / 'last.pth.tar')
    converted = dkszoo.convert(tmp_path / 'last.pth.tar')
    assert converted[:2] == ('mobilenetv3_small_050', {'num_classes': 5, 'in_chans': 3, 'drop_rate': 0.1})
    assert equal(converted.backbone, model.state_dict())
    assert dkszoo.convert(model.state_dict(), 'mobilenetv3_small_050').model_kwargs['num_classes'] == 5
    with pytest.raises(ValueError, match="name the model, if it is one of timm's or of another size"):
        dkszoo.convert(model.state_dict())


def test_an_architecture_that_timm_has_not():
    state = timm.create_model('cifar_resnet8', num_classes=5).state_dict()
    contents = {'arch': 'my_resnet8', 'version': 2, 'state_dict': state}
    assert dkszoo.convert(contents)[:2] == ('cifar_resnet8', {'num_classes': 5, 'in_chans': 3})


# -- what is read from the shapes, and what is not ---------------------------------------------------------------------


def test_classes_and_channels_follow_from_the_shapes():
    state = dkszoo.create_model('cifar_vgg8', num_classes=3, in_chans=1).state_dict()
    assert dkszoo.convert(state)[:2] == ('cifar_vgg8', {'num_classes': 3, 'in_chans': 1})


def test_classes_of_several_classifiers():
    with torch.device('meta'):
        state = timm.create_model('deit_tiny_distilled_patch16_224', num_classes=7).state_dict()
    state = hollow((key, value.shape) for key, value in state.items())
    assert dkszoo.convert(state, 'deit_tiny_distilled_patch16_224').model_kwargs['num_classes'] == 7


def test_features_without_a_classifier():
    for name in ('cifar_resnet8', 'cifar_vgg8', 'cifar_wrn16_1'):
        converted = dkszoo.convert(timm.create_model(name, num_classes=0).state_dict())
        assert (converted.model, converted.model_kwargs['num_classes']) == (name, 0)


def test_one_branch_of_two_is_numbered_as_the_only_one():
    state = {key: value for key, value in filled(fixture('DKS__wrn_16_2')['keys']).items() if key[:4] != 'ep1_'}
    converted = dkszoo.convert(state)
    net = dkszoo.create_model(converted.model, branches='dks', taps=[1], **converted.model_kwargs)
    net.branches.load_state_dict(converted.branches)


def test_branches_may_stand_in_any_order():
    state = filled(fixture('DKS__wrn_16_2')['keys'])
    assert equal(dkszoo.convert(dict(reversed(state.items()))).branches, dkszoo.convert(state).branches)


def test_missing_batch_counts_are_zero():
    keys = [(key, shape) for key, shape in NETWORKS['RepDistiller resnet8'][0] if 'num_batches' not in key]
    converted = dkszoo.convert(filled(keys))
    counts = [value for key, value in converted.backbone.items() if key.endswith('num_batches_tracked')]
    assert len(counts) == 9
    assert all(count == 0 and count.dtype == torch.int64 for count in counts)
    built(converted)


def test_batch_counts_of_a_file_in_another_order_stay():
    state = timm.create_model('cifar_resnet8').state_dict()
    state = {key: state[key] + 7 if key.endswith('num_batches_tracked') else state[key] for key in sorted(state)}
    assert equal(dkszoo.convert(state, 'cifar_resnet8').backbone, state)


def test_arguments_given_make_other_sizes_fit():
    state = hollow(peers.dhm_wrn(16, 8))
    with pytest.raises(ValueError, match='fits no model'):
        dkszoo.convert(state)
    converted = dkszoo.convert(state, 'cifar_wrn16_2', widen_factor=8)
    assert converted.model_kwargs == {'num_classes': 100, 'in_chans': 3, 'widen_factor': 8}
    with torch.device('meta'):
        built(converted, assign=True)


def test_mdistiller_student_or_teacher(tmp_path):
    student, teacher = (NETWORKS[f'RepDistiller {name}'] for name in ('resnet8x4', 'wrn_40_2'))
    model = {**prefixed(hollow(student[0]), 'module.student.'), **prefixed(hollow(teacher[0]), 'module.teacher.')}
    assert dkszoo.convert({'model': model}).model == 'cifar_resnet8x4'
    assert dkszoo.convert({'model': model}, 'cifar_wrn40_2').model == 'cifar_wrn40_2'
    only = {key: value for key, value in model.items() if 'teacher' in key}
    assert dkszoo.convert({'model': only}).model == 'cifar_wrn40_2'
    assert dkszoo.convert({'model': hollow(student[0])}).model == 'cifar_resnet8x4'  # student_best
    with pytest.raises(ValueError, match='does not fit cifar_vgg8'):
        dkszoo.convert({'model': model}, 'cifar_vgg8')
    unknown = {**only, **prefixed(hollow(peers.dhm_wrn(16, 8)), 'module.student.')}
    with pytest.raises(ValueError, match=r'mdistiller checkpoint, student.* fits no model'):
        dkszoo.convert({'model': unknown})


def test_a_dict_given_stays_as_it_is():
    state = filled(fixture('DKS__wrn_16_2')['keys'])
    contents = {'params': dict(state), 'epoch': 1}
    dkszoo.convert(contents)
    assert list(contents) == ['params', 'epoch']
    assert equal(contents['params'], state)


def test_files_that_fit_nothing_name_the_nearest():
    keys = peers.repdistiller_wrn(16, 2)
    other = [(key, (100, 77) if key == 'fc.weight' else shape) for key, shape in keys if key != 'bn1.bias']
    with pytest.raises(ValueError, match='fits no model') as error:
        dkszoo.convert(hollow(other))
    text = str(error.value)
    assert re.search(r'nearest are cifar_wrn16_2: .*; cifar_wrn\d+_\d+: .*; cifar_wrn\d+_\d+: ', text)
    assert "it lacks 'bn1.bias'" in text
    assert "'fc.weight' has shape [100, 77], expected [100, 128]" in text
    with pytest.raises(
        ValueError, match=r'does not fit cifar_wrn40_2: it lacks .*nearest to it: cifar_wrn16_2, .*depth=22'
    ):
        dkszoo.convert(hollow(keys), 'cifar_wrn40_2')
    more = {**hollow(keys), **{f'x{i}.weight': torch.ones(1) for i in range(5)}}
    with pytest.raises(ValueError, match=r"it also has 'x0\.weight', 'x1\.weight' and 3 more"):
        dkszoo.convert(more, 'cifar_wrn16_2')
    with pytest.raises(ValueError, match=r'unknown model .*did you mean cifar_wrn16_2'):
        dkszoo.convert(hollow(keys), 'cifar_wrn16-2')


def test_a_file_of_another_model_says_whose_it_is():
    state = timm.create_model('cifar_vgg8', num_classes=10).state_dict()
    contents = {'state_dict': state, 'arch': 'cifar_vgg8', 'version': 2}
    with pytest.raises(ValueError, match=r'holds a cifar_vgg8, not a cifar_resnet8: it lacks .* \(ask for that'):
        dkszoo.convert(contents, 'cifar_resnet8')


def test_arguments_that_the_file_does_not_need():
    state = timm.create_model('cifar_resnet8', num_classes=10).state_dict()
    with pytest.raises(ValueError, match=r'holds a cifar_resnet8 without channels, stem_chs \(ask for that'):
        dkszoo.convert(state, 'cifar_resnet8', channels=[2, 4, 4], stem_chs=2)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'holds no state dict .*looked for under: .*model'):
        dkszoo.convert({'epoch': 3})
    with pytest.raises(ValueError, match='holds no state dict'):
        dkszoo.convert({0: torch.ones(3)})
    with pytest.raises(ValueError, match='holds no state dict'):
        dkszoo.convert({'state_dict': {'n_averaged': torch.tensor(0)}})
    with pytest.raises(ValueError, match='it has branches, but no network'):
        dkszoo.convert({'ep1_bn.weight': torch.ones(3)})
    with pytest.raises(ValueError, match='does not name its model'):
        dkszoo.convert(hollow(NETWORKS['RepDistiller resnet20'][0]), depth=22)
    torch.save([torch.ones(2)], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'list\.pth.* holds a list'):
        dkszoo.convert(tmp_path / 'list.pth')
    hsakd = {re.sub(r'^classifier\.0', 'classifier', k): v for k, v in own_mobilenet().items()}
    with pytest.raises(ValueError, match="HSAKD's, whose stem has stride 1"):
        dkszoo.convert(hsakd)
    strange = {**hollow(NETWORKS['DHM resnet32'][0]), 'attention_head1.weight': torch.ones(1)}
    with pytest.raises(ValueError, match=r"a branch holds 'attention\.weight'"):
        dkszoo.convert(strange)


def own_mobilenet():
    return filled(fixture('RepDistiller__MobileNetV2')['keys'])


# -- create_model(checkpoint_path=) ------------------------------------------------------------------------------------


@pytest.mark.parametrize('reference', ['DHM__resnet32', 'DKS__wrn_16_2', 'RepDistiller__vgg8'])
@torch.no_grad()
def test_create_model_reads_peers_files(reference, tmp_path):
    data, (name, *_) = fixture(reference), FIXTURES[reference]
    peer_file(reference.split('__')[0], filled(data['keys']), tmp_path / 'file')
    net = dkszoo.create_model(name, branches='dks', checkpoint_path=tmp_path / 'file').eval()
    out = net(torch.from_numpy(recipe.model_input(32, 4)))
    assert_near(out.logits, torch.tensor(data['logits']), EVAL)
    assert len(out.branch_logits) == 2
    with pytest.raises(ValueError, match='with num_classes=100'):
        dkszoo.create_model(name, num_classes=10, checkpoint_path=tmp_path / 'file')


def test_create_model_takes_no_dropout_from_a_file(tmp_path):
    contents = own_checkpoint()
    contents['dkszoo']['model']['model_args']['drop_rate'] = 0.5
    torch.save(contents, tmp_path / 'last.pth.tar')
    assert dkszoo.convert(tmp_path / 'last.pth.tar').model_kwargs['drop_rate'] == 0.5
    model = dkszoo.create_model('cifar_resnet8', checkpoint_path=tmp_path / 'last.pth.tar')
    assert (model.drop_rate, model.num_classes, model.in_chans) == (0.0, 5, 1)


def test_a_file_for_the_model_of_a_hub_folder(tmp_path):
    net = timm.create_model('cifar_resnet8', num_classes=4, stem_chs=8)
    timm.models.save_for_hf(net, tmp_path / 'hub', safe_serialization=True)
    torch.save({key: value + 1 for key, value in net.state_dict().items()}, tmp_path / 'net.pth')
    made = dkszoo.create_model(f'local-dir:{tmp_path}/hub', checkpoint_path=tmp_path / 'net.pth')
    assert torch.equal(made.fc.bias, net.fc.bias + 1)


@pytest.mark.parametrize('name', ['tresnet_m', 'csatv2', 'test_vit'])
def test_a_first_layer_that_reads_no_image(name):
    """Blocks of pixels as channels, none that is named, and a plain one."""
    with torch.device('meta'):
        net = timm.create_model(name)
    assert dkszoo.convert(net.to_empty(device='cpu').state_dict(), name).model == name


def test_arguments_given_go_before_those_of_the_file():
    state = timm.create_model('cifar_resnet8', num_classes=4).state_dict()
    args = {'model_kwargs': {'drop_rate': 0.3}}
    contents = {'arch': 'cifar_resnet8', 'version': 2, 'state_dict': state, 'args': args}
    assert dkszoo.convert(contents).model_kwargs['drop_rate'] == 0.3
    assert dkszoo.convert(contents, drop_rate=0.1).model_kwargs['drop_rate'] == 0.1
    with pytest.raises(ValueError, match=r'does not name its model, needed for the arguments .* \(name it\)'):
        dkszoo.convert(state, drop_rate=0.1)
