"""Logits of the branches of `attach_branches` equal those of the public networks for the same weights."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import timm
import torch

from dkszoo.branches import attach_branches

FIXTURES = Path(__file__).parents[1] / 'fixtures'
_spec = importlib.util.spec_from_file_location('branch_fixtures_recipe', FIXTURES / 'recipe.py')
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)

# fixture, model, its arguments, names of its branches shallow to deep, patterns of their keys
PEERS = [
    ('DHM__densenet_40_12', 'cifar_densenet40_12', {}, ('x2', 'x1'), (r'_head2', r'_head1')),
    ('DHM__resnet32', 'cifar_resnet32', {'shortcut': 'pad'}, ('x2', 'x1'), (r'_head2', r'_head1')),
    ('DKS__wrn_16_2', 'cifar_wrn16_2', {}, ('ep1', 'ep2'), (r'^ep1_', r'^ep2_')),
]


def fill(module, keys):
    """Copy a peer's values to a module, entry by entry; both are in order of computation, except for `rank`."""
    state = module.state_dict()
    ours = [key for key in state if 'num_batches_tracked' not in key]
    theirs = [(key, shape) for key, shape in sorted(keys, key=rank(keys)) if 'num_batches_tracked' not in key]
    assert [tuple(shape) for _, shape in theirs] == [tuple(state[key].shape) for key in ours]
    for key, (name, shape) in zip(ours, theirs, strict=True):
        state[key] = torch.from_numpy(recipe.fill(name, shape))
    module.load_state_dict(state)


def rank(keys):
    """The official DKS code lists the convolutions of a block before its norms; ours are in order of use."""
    order = {'bn0': 0, 'conv0': 1, 'bn1': 2, 'conv1': 3, 'convdim': 4}
    position = {key: i for i, (key, _) in enumerate(keys)}

    def place(item):
        match = re.match(r'(.*group\d\.block\d)\.(\w+)', item[0])
        if not match:
            return position[item[0]], 0, 0
        first = min(i for key, i in position.items() if key.startswith(f'{match[1]}.'))
        return first, order[match[2]], position[item[0]]

    return place


@pytest.mark.parametrize(('fixture', 'name', 'kwargs', 'branches', 'patterns'), PEERS)
@torch.no_grad()
def test_all_heads(fixture, name, kwargs, branches, patterns):
    data = json.loads((FIXTURES / 'arch' / f'{fixture}.json').read_text())
    net = attach_branches(timm.create_model(name, **kwargs), 'dks')
    assert sum(p.numel() for p in net.parameters()) == data['num_params']
    keys = [(key, shape) for key, shape in data['keys']]
    fill(net.backbone, [(k, s) for k, s in keys if not any(re.search(p, k) for p in patterns)])
    for branch, pattern in zip(net.branches, patterns, strict=True):
        fill(branch, [(k, s) for k, s in keys if re.search(pattern, k)])
    batch, _, size, _ = data['input']['shape']
    x = torch.from_numpy(recipe.model_input(size, batch))
    for train, suffix, tolerance in ((False, '', 2e-5), (True, '_train', 2e-4)):
        out = net.train(train)(x)
        pairs = [(out.logits, data[f'logits{suffix}'])]
        pairs += [(z, data[f'branch_logits{suffix}'][b]) for z, b in zip(out.branch_logits, branches, strict=True)]
        for actual, expected in pairs:
            expected = torch.tensor(expected)
            assert (actual - expected).abs().max() <= tolerance * expected.abs().max()
