"""Every registered model of dkszoo is a complete timm model: its structure, on the meta device."""

import math

import pytest
import timm
import torch
import zoo
from timm.models import FeatureListNet, get_pretrained_cfg
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from dkszoo.models._cifar_net import CifarNet

NUM_PARAMS = {
    'cifar_densenet40_12': 1_060_132,
    'cifar_densenet100_12': 7_084_852,
    'cifar_densenetbc100_12': 800_032,
    'cifar_mobilenet_v1': 3_309_476,
    'cifar_mobilenet_v2_half': 812_836,
    'cifar_resnet8': 83_892,
    'cifar_resnet14': 181_108,
    'cifar_resnet20': 278_324,
    'cifar_resnet32': 472_756,
    'cifar_resnet44': 667_188,
    'cifar_resnet56': 861_620,
    'cifar_resnet110': 1_736_564,
    'cifar_resnet1202': 19_429_876,
    'cifar_resnet8x4': 1_233_540,
    'cifar_resnet32x4': 7_433_860,
    'cifar_resnet18': 11_220_132,
    'cifar_resnet50': 23_705_252,
    'cifar_shufflenet_v2': 1_355_528,
    'cifar_vgg8': 3_965_028,
    'cifar_vgg11': 9_277_284,
    'cifar_vgg13': 9_462_180,
    'cifar_vgg16': 14_774_436,
    'cifar_vgg19': 20_086_692,
    'cifar_wrn16_1': 180_916,
    'cifar_wrn16_2': 703_284,
    'cifar_wrn28_4': 5_872_180,
    'cifar_wrn28_10': 36_536_884,
    'cifar_wrn40_1': 569_780,
    'cifar_wrn40_2': 2_255_156,
    'dks_resnet18': 11_689_512,
    'dks_resnet34': 21_797_672,
    'dks_resnet50': 25_557_032,
    'dks_resnet101': 44_549_160,
    'dks_resnet152': 60_192_808,
}


def meta_images(model):
    return torch.empty(1, *model.default_cfg['input_size'], device='meta')


def meta_features(model):
    return torch.empty(2, model.num_features, *model.default_cfg['pool_size'], device='meta')


def test_whole_zoo_is_registered():
    assert set(NUM_PARAMS) <= set(zoo.NAMES)
    assert set(zoo.NAMES) == set(timm.list_models(['cifar_*', 'dks_*']))
    assert all(zoo.FAMILIES.values())


@pytest.mark.parametrize('name', NUM_PARAMS)
def test_num_params(name):
    assert zoo.num_params(zoo.meta(name)) == NUM_PARAMS[name]


@pytest.mark.parametrize('name', zoo.RUNNABLE)
def test_norms_average_as_torchs_do(name):
    norms = [m for m in zoo.meta(name).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum, m.affine, m.track_running_stats) for m in norms} == {(1e-5, 0.1, True, True)}


@pytest.mark.parametrize('name', zoo.NAMES)
def test_default_cfg(name):
    model = zoo.meta(name)
    cfg = model.default_cfg
    keys = model.state_dict().keys()
    assert get_pretrained_cfg(name).architecture == name
    assert not get_pretrained_cfg(name).has_weights  # a name without a tag never has weights
    assert f'{cfg["first_conv"]}.weight' in keys
    assert f'{cfg["classifier"]}.weight' in keys
    first_conv = model.get_submodule(cfg['first_conv'])
    assert first_conv is next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert first_conv.in_channels == model.in_chans == cfg['input_size'][0] == 3
    assert model.get_submodule(cfg['classifier']) is model.get_classifier()
    assert model.get_classifier().out_features == model.num_classes == cfg['num_classes']
    if name in zoo.CIFAR_NAMES:
        assert (cfg['input_size'], cfg['num_classes'], cfg['crop_pct']) == ((3, 32, 32), 100, 1.0)
        assert (cfg['mean'], cfg['std']) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
        assert model.get_classifier(name_only=True) == cfg['classifier']
    else:
        assert (cfg['input_size'], cfg['num_classes']) == ((3, 224, 224), 1000)
        assert (cfg['mean'], cfg['std']) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert (cfg['crop_mode'], cfg['interpolation'], cfg['crop_pct']) == ('squash', 'bicubic', 0.875)


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.NAMES))
def test_features_and_head(name):
    model = zoo.meta(name)
    x = meta_images(model)
    features = model.forward_features(x)
    assert features.shape == (1, model.num_features, *model.default_cfg['pool_size'])
    assert model.forward_head(features).shape == model(x).shape == (1, model.num_classes)
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    for kwargs, shape in (
        (dict(num_classes=0), (1, model.head_hidden_size)),
        (dict(num_classes=0, global_pool=''), features.shape),
        (dict(num_classes=7), (1, 7)),
    ):
        assert zoo.meta(name, **kwargs).forward_head(features).shape == shape


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.NAMES))
def test_reset_classifier(name):
    model = zoo.meta(name).to(torch.float64).train()
    features = meta_features(model).double()
    model.reset_classifier(7)
    assert model.num_classes == 7
    assert model.forward_head(features).shape == (2, 7)
    assert model.get_classifier().weight.dtype == torch.float64
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model.forward_head(features).shape == (2, model.head_hidden_size)
    model.reset_classifier(0, '')
    assert model.forward_head(features).shape == features.shape
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.NAMES))
def test_global_pool(name):
    reset = zoo.meta(name)
    features = meta_features(reset)
    for global_pool, width in (('max', 1), ('avgmax', 1), ('catavgmax', 2)):
        made = zoo.meta(name, global_pool=global_pool)
        reset.reset_classifier(5, global_pool)
        reset.reset_classifier(6)  # keeps the pooling
        for model, num_classes in ((made, made.num_classes), (reset, 6)):
            assert model.global_pool.pool_type == global_pool
            assert model.head_hidden_size == width * model.num_features
            assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
            assert model.forward_head(features).shape == (2, num_classes)


def expected_shapes(model, x, infos):
    height, width = x.shape[-2:]
    return [(x.shape[0], i['num_chs'], height // i['reduction'], width // i['reduction']) for i in infos]


@pytest.mark.parametrize('feature_cls', [None, 'getter'])
@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.RUNNABLE))
def test_features_only(name, feature_cls):
    kwargs = {} if feature_cls is None else dict(feature_cls=feature_cls)
    infos = zoo.meta(name).feature_info
    assert len(infos) >= 3
    for indices in (None, (0, -1)):
        out_indices = {} if indices is None else dict(out_indices=indices)
        model = timm.create_model(name, features_only=True, device='meta', **out_indices, **kwargs).eval()
        assert isinstance(model, FeatureListNet) == (feature_cls is None)
        x = torch.empty(1, *zoo.meta(name).default_cfg['input_size'], device='meta')
        # timm's ResNet omits its stem by default; ours lists every stage
        chosen = infos if indices is None else [infos[i] for i in indices]
        assert [tuple(f.shape) for f in model(x)] == expected_shapes(model, x, chosen)
        assert model.feature_info.channels() == [i['num_chs'] for i in chosen]
        assert model.feature_info.reduction() == [i['reduction'] for i in chosen]


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.RUNNABLE))
def test_forward_intermediates_shapes(name):
    model = zoo.meta(name)
    x, infos = meta_images(model), model.feature_info
    final, taps = model.forward_intermediates(x)
    assert final.shape == model.forward_features(x).shape
    assert [tuple(t.shape) for t in taps] == expected_shapes(model, x, infos)
    for indices, chosen in ((2, infos[-2:]), ([1], infos[1:2]), ([-1, 0], [infos[0], infos[-1]])):
        taps = model.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)
        assert [tuple(t.shape) for t in taps] == expected_shapes(model, x, chosen)
    normed = model.forward_intermediates(x, norm=True, intermediates_only=True)
    assert [tuple(t.shape) for t in normed[:-1]] == expected_shapes(model, x, infos[:-1])
    assert normed[-1].shape == final.shape


@pytest.mark.parametrize('name', zoo.CIFAR_NAMES)
def test_forward_intermediates_refuses_nonsense(name):
    model = zoo.meta(name)
    x = meta_images(model)
    with pytest.raises(ValueError, match='stages 0 to'):
        model.forward_intermediates(x, indices=[len(model.feature_info)])
    with pytest.raises(ValueError, match='NCHW'):
        model.forward_intermediates(x, output_fmt='NLC')


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.RUNNABLE))
def test_other_input_sizes(name):
    model = zoo.meta(name)
    for height, width in ((64, 64), (33, 47), (224, 160)):
        x = torch.empty(2, 3, height, width, device='meta')
        assert model(x).shape == (2, model.num_classes)
        for info, tap in zip(model.feature_info, model.forward_intermediates(x)[1], strict=True):
            assert height // info['reduction'] <= tap.shape[-2] <= math.ceil(height / info['reduction'])
            assert width // info['reduction'] <= tap.shape[-1] <= math.ceil(width / info['reduction'])


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.NAMES))
def test_group_matcher(name):
    model = zoo.meta(name)
    cfg = model.default_cfg
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert layers.keys() == coarse.keys() == dict(model.named_parameters()).keys()
    assert set(layers.values()) == set(range(max(layers.values()) + 1))
    assert 2 < max(coarse.values()) <= max(layers.values())
    # parameters are registered in the order of the forward pass, so groups never go back
    in_order = [layers[n] for n, _ in model.named_parameters()]
    assert in_order == sorted(in_order)
    assert layers[f'{cfg["first_conv"]}.weight'] == 0
    head = [n for n, group in layers.items() if group == max(layers.values())]
    assert head == [f'{cfg["classifier"]}.weight', f'{cfg["classifier"]}.bias']
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale_of = {id(p): g['lr_scale'] for g in groups for p in g['params']}
    assert len(scale_of) == len(list(model.parameters()))
    assert scale_of[id(model.get_classifier().weight)] == 1.0
    assert scale_of[id(next(model.parameters()))] == pytest.approx(0.5 ** max(layers.values()))


@pytest.mark.parametrize('name', zoo.smaller_by_default(zoo.NAMES))
def test_device_and_dtype(name):
    model = timm.create_model(name, device='meta', dtype=torch.bfloat16)
    assert {p.device.type for p in model.state_dict().values()} == {'meta'}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.device('meta'):
        assert next(timm.create_model(name, in_chans=4).parameters()).is_meta
    with pytest.raises(TypeError):
        timm.create_model(name, device='meta', not_an_argument=1)


@pytest.mark.parametrize('name', zoo.smaller_by_default([n for n in zoo.RUNNABLE if n in zoo.CIFAR_NAMES]))
def test_make_stage(name):
    """Stages made later are like the network's own, also at another width, with its device and dtype."""
    model = zoo.meta(name).to(torch.float64)
    x = meta_images(model).double()
    taps = model.forward_intermediates(x, intermediates_only=True)
    for i in range(1, len(taps)):
        own = getattr(model, model.feature_info[i]['module'])
        in_chs = taps[i - 1].shape[1]
        stage, chs = model.make_stage(i, in_chs, model.stage_depths[i])
        assert [p.shape for p in stage.parameters()] == [p.shape for p in own.parameters()]
        assert chs == model.feature_info[i]['num_chs']
        wide, chs = model.make_stage(i, in_chs, model.stage_depths[i], 2.0)
        out = wide(taps[i - 1])
        assert out.shape == (1, chs, *taps[i].shape[2:])
        assert chs > taps[i].shape[1]
        assert zoo.num_params(wide) > zoo.num_params(own)
    if type(model).forward_norm is not CifarNet.forward_norm:  # the base's own would leave branches without theirs
        with pytest.raises(NotImplementedError, match='needs a make_norm'):
            CifarNet.make_norm(model, chs)
    norm, chs = model.make_norm(chs)
    assert norm(out).shape == (1, chs, *model.default_cfg['pool_size'])
