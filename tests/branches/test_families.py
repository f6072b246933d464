"""Branches on the smallest model of each timm module: a dozen by default, all with `-m slow`."""

import pytest
import timm
import torch
from families import SKIPPED, SMALLEST

from dkszoo.branches import attach_branches, strip

DEFAULT = ['byobnet', 'convnext', 'dla', 'efficientnet', 'lcnetv2', 'mambaout', 'maxxvit', 'mobilenetv3', 'nfnet']
DEFAULT += ['resnet', 'vision_transformer', 'vision_transformer_relpos']
OWN_SIZE = {'halonet_h1'}  # its blocks divide the map of its native size


def test_every_module_has_its_model():
    assert set(SMALLEST) == set(timm.list_modules()) - {name for name in timm.list_modules() if is_ours(name)}
    assert set(SKIPPED) < set(SMALLEST.values())


def is_ours(module):
    return all(name.startswith(('cifar_', 'dks_')) for name in timm.list_models(module=module))


def images(model, name):
    chans, *size = model.pretrained_cfg['input_size']
    if not model.pretrained_cfg.get('fixed_input_size') and name not in OWN_SIZE:
        size = [min(side, 96) for side in size]
    return torch.randn(2, chans, *size, generator=torch.Generator().manual_seed(0))


def check(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = timm.create_model(name, num_classes=5)
    net = attach_branches(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x = images(model, name)

    out = net.train()(x)
    heads = [out.logits, *out.branch_logits]
    assert [z.shape for z in heads] == [(2, 5)] * (1 + len(net.taps))
    assert all(len(f) == 2 and f.ndim == 4 for f in (out.features, *out.branch_features, *out.stages))
    sum(z.logsumexp(1).sum() for z in heads).backward()
    # DDP with find_unused_parameters=False waits for each of these.
    assert [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None] == []

    assert strip(net) is model
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(net.eval()(x).logits, plain.eval()(x))


@pytest.mark.parametrize('module', DEFAULT)
def test_a_dozen_families(module):
    check(SMALLEST[module])


@pytest.mark.slow
@pytest.mark.parametrize('module', [module for module in SMALLEST if module not in DEFAULT])
def test_all_other_families(module):
    name = SMALLEST[module]
    if name in SKIPPED:
        pytest.skip(f'{name}: {SKIPPED[name]}')
    check(name)
