"""Parameters and logits equal those of the public implementations, state dict entries in the same order."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import zoo
from torch import nn
from torch.nn import functional as F

FIXTURES = Path(__file__).parents[1] / 'fixtures'
_spec = importlib.util.spec_from_file_location('fixtures_recipe', FIXTURES / 'recipe.py')
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)

EVAL, TRAIN = 2e-5, 2e-4  # of the largest logit

# fixture -> our name and arguments
REFERENCES = {
    'DHM__densenet_40_12': ('cifar_densenet40_12', {}),
    'DHM__resnet32': ('cifar_resnet32', dict(shortcut='pad')),
    'DKS__wrn_16_2': ('cifar_wrn16_2', {}),
    'RepDistiller__MobileNetV2': ('cifar_mobilenet_v2_half', {}),
    'RepDistiller__ShuffleV2': ('cifar_shufflenet_v2', {}),
    'RepDistiller__resnet20': ('cifar_resnet20', {}),
    'RepDistiller__resnet8x4': ('cifar_resnet8x4', {}),
    'RepDistiller__vgg8': ('cifar_vgg8', {}),
    'RepDistiller__wrn_16_2': ('cifar_wrn16_2', {}),
    'mdistiller__wrn_16_2': ('cifar_wrn16_2', {}),
    'torchvision__resnet18': ('dks_resnet18', {}),
}
BRANCH = re.compile(r'_head[12]|^ep[12]_')


def load(reference):
    return json.loads((FIXTURES / 'arch' / f'{reference}.json').read_text())


def fill(module, keys):
    """Copy the reference's values to a module, entry by entry in order; a missing num_batches_tracked stays 0."""
    state = module.state_dict()
    ours = list(state)
    if not any('num_batches_tracked' in key for key, _ in keys):
        ours = [key for key in ours if 'num_batches_tracked' not in key]
    assert [tuple(shape) for _, shape in keys] == [tuple(state[key].shape) for key in ours]
    for key, (theirs, shape) in zip(ours, keys, strict=True):
        state[key] = torch.from_numpy(recipe.fill(theirs, shape))
    module.load_state_dict(state)


def in_module_order(keys):
    """The official DKS code lists the convolutions of a block first: reorder them as ours."""
    place = {'bn0': 0, 'conv0': 1, 'bn1': 2, 'conv1': 3, 'convdim': 4}

    def rank(item):
        index, (key, _) = item
        block = re.match(r'(.*group\d\.block\d)\.(\w+)', key)
        if not block:
            return index, 0, index
        first = next(i for i, (other, _) in enumerate(keys) if other.startswith(f'{block[1]}.'))
        return first, place[block[2]], index

    return [pair for _, pair in sorted(enumerate(keys), key=rank)]


def built(reference):
    """The data of a fixture, our network with its values, and its input."""
    data = load(reference)
    name, kwargs = REFERENCES[reference]
    model = timm.create_model(name, **kwargs)
    keys = data['keys']
    if reference.startswith('DKS__'):
        keys = in_module_order(keys)
    fill(model, [(key, shape) for key, shape in keys if not BRANCH.search(key)])
    batch, _, size, _ = data['input']['shape']
    return data, keys, model, torch.from_numpy(recipe.model_input(size, batch))


def test_every_fixture_is_used():
    assert {path.stem for path in (FIXTURES / 'arch').glob('*.json')} == set(REFERENCES)


@pytest.mark.parametrize('reference', REFERENCES)
@torch.no_grad()
def test_logits(reference):
    data, _, model, x = built(reference)
    assert zoo.num_params(model) == data['num_params_main']
    zoo.assert_near(model.eval()(x), torch.tensor(data['logits']), EVAL)
    zoo.assert_near(model.train()(x), torch.tensor(data['logits_train']), TRAIN)


# fixture, its branch, its tap, blocks and width of its stages, its keys
BRANCHES = [
    ('DHM__densenet_40_12', 'x2', 0, (12, 6), 1.0, r'_head2'),
    ('DHM__densenet_40_12', 'x1', 1, (12,), 3.0, r'_head1'),
    ('DHM__resnet32', 'x2', 0, (5, 3), 1.0, r'_head2'),
    ('DHM__resnet32', 'x1', 1, (5,), 2.0, r'_head1'),
    ('DKS__wrn_16_2', 'ep1', 0, (2, 1), 1.0, r'^ep1_'),
    ('DKS__wrn_16_2', 'ep2', 1, (2,), 2.0, r'^ep2_'),
]


@pytest.mark.parametrize(('reference', 'branch', 'tap', 'depths', 'width', 'pattern'), BRANCHES)
@torch.no_grad()
def test_branch_logits(reference, branch, tap, depths, width, pattern):
    """Stages made by the network, its norm, a pool and a linear layer equal the public branches."""
    data, keys, model, x = built(reference)
    modules, chs = [], model.feature_info[tap]['num_chs']
    for i, depth in enumerate(depths):
        stage, chs = model.make_stage(tap + 1 + i, chs, depth, width)
        modules.append(stage)
    norm, chs = model.make_norm(chs)
    head = nn.Sequential(*modules, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(chs, 100))
    fill(head, [(key, shape) for key, shape in keys if re.search(pattern, key)])
    for key, train, tolerance in (('branch_logits', False, EVAL), ('branch_logits_train', True, TRAIN)):
        model.train(train)
        head.train(train)
        taps = model.forward_intermediates(x, intermediates_only=True)
        zoo.assert_near(head(taps[tap]), torch.tensor(data[key][branch]), tolerance)


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
def test_torchvision_keys(depth):
    with torch.device('meta'):
        theirs = getattr(torchvision.models, f'resnet{depth}')()
    ours = zoo.meta(f'dks_resnet{depth}')
    entries = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (ours, theirs)]
    assert entries[0] == entries[1]


@pytest.mark.parametrize('depth', [18, 50])
@torch.no_grad()
def test_torchvision_function(depth):
    """The ImageNet network equals torchvision's; the CIFAR one has the same stages behind another stem."""
    theirs = getattr(torchvision.models, f'resnet{depth}')()
    state = {k: torch.from_numpy(recipe.fill(k, v.shape)) for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours = timm.create_model(f'dks_resnet{depth}')
    ours.load_state_dict(state)
    cifar = timm.create_model(f'cifar_resnet{depth}')
    cifar.load_state_dict({k: v for k, v in state.items() if k.startswith('layer')}, strict=False)
    x = torch.from_numpy(recipe.model_input(64, 2))
    stem = torch.from_numpy(recipe.arr(1, (2, 64, 8, 8)))
    for train, tolerance in ((False, EVAL), (True, TRAIN)):
        for model in (theirs, ours, cifar):
            model.train(train)
        zoo.assert_near(ours(x), theirs(x), tolerance)
        expected = actual = stem
        for i in range(1, 5):
            expected = getattr(theirs, f'layer{i}')(expected)
            actual = getattr(cifar, f'layer{i}')(actual)
        zoo.assert_near(actual, expected, tolerance)


@torch.no_grad()
def test_mobilenet_v1_by_hand():
    """It has no fixture, so it is compared with its formula."""
    model = zoo.fresh('cifar_mobilenet_v1').eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.3)
        norm.running_mean.normal_(0, 0.1)
    state = model.state_dict()

    def activate(name, x):
        parts = (state[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias'))
        return F.relu(F.batch_norm(x, *parts))

    images = torch.randn(2, 3, 32, 32)
    x = activate('bn1', F.conv2d(images, state['conv1.weight'], padding=1))
    for stage, depth in enumerate((1, 2, 2, 6, 2), 1):
        for i in range(depth):
            name, stride = f'layer{stage}.{i}', 2 if stage > 1 and i == 0 else 1
            weight = state[f'{name}.conv_dw.weight']
            x = activate(f'{name}.bn1', F.conv2d(x, weight, stride=stride, padding=1, groups=len(weight)))
            x = activate(f'{name}.bn2', F.conv2d(x, state[f'{name}.conv_pw.weight']))
    zoo.assert_near(model(images), F.linear(x.mean((2, 3)), state['fc.weight'], state['fc.bias']), EVAL)
