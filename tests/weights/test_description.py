"""What a file may say of its model; tests/hostile has whole files."""

import argparse
from types import SimpleNamespace

import pytest

from dkszoo.weights import check_arguments, check_values, fit_channels, name_and_arguments, recorded_data
from dkszoo.weights.description import ENTRIES, check_data

DATA = {'input_size': (3, 8, 8), 'mean': (0.5,) * 3, 'std': (0.5,) * 3}


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        ({'cache_dir': 'x'}, "has the model argument 'cache_dir', which would read other files"),
        ({3: 4}, 'are not a mapping of names to values'),
        ({'layers': {'first': [10**9]}}, 'cannot have 1000000000'),
        ({'depth': -(10**9)}, 'cannot have -1000000000'),
    ],
)
def test_arguments(args, says):
    with pytest.raises(ValueError, match=says):
        check_arguments(args, 'it')


@pytest.mark.parametrize(
    ('key', 'value'),
    [('class_names', ['a', 1]), ('evaluation', {'batch_size': 10**9}), ('dataset', ['digits']), ('method', 7)],
)
def test_entries(key, value):
    with pytest.raises(ValueError, match=f'its {key} cannot be'):
        check_values({key: value}, 'its ', ENTRIES)


@pytest.mark.parametrize('key', DATA)
def test_nothing_is_left_out_of_the_data(key):
    check_data(DATA, 'it')
    with pytest.raises(ValueError, match=f'lacks the {key} of its images'):
        check_data({name: value for name, value in DATA.items() if name != key}, 'it')


@pytest.mark.parametrize(
    ('key', 'values'),
    [
        ('interpolation', ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')),
        ('crop_mode', ('center', 'squash', 'border')),
    ],
)
def test_all_ways_of_timm_to_prepare_images(key, values):
    for value in values:
        check_values({key: value}, '')
    with pytest.raises(ValueError, match=f'^{key} cannot be'):
        check_values({key: 'other'}, '')


@pytest.mark.parametrize('size', [(0, 8, 8), (3, 0, 8), (3, 8.0, 8), (3, 8), (3, 8, 8, 8), (3, 2**12, 2**12)])
def test_sizes_that_no_image_has(size):
    check_values({'input_size': (3, 2**11, 2**11)}, '')
    with pytest.raises(ValueError, match=r'^input_size cannot be'):
        check_values({'input_size': size}, '')


def test_statistics_of_another_number_of_channels_are_their_mean():
    assert fit_channels((0.25, 0.5, 0.75), 1) == (0.5,)
    assert fit_channels((0.25, 0.75), 3) == (0.5,) * 3
    assert fit_channels([1, 2], 2) == (1.0, 2.0)


def test_arguments_given_go_before_those_of_a_hub_folder():
    model = SimpleNamespace(pretrained_cfg={'architecture': 'a'}, _model_args={'num_classes': 4, 'stem_chs': 8})
    given = {'num_classes': 7}
    assert name_and_arguments('local-dir:x', given, model) == ('a', {'num_classes': 7, 'stem_chs': 8})
    assert name_and_arguments('b', given, model) == ('b', given)


@pytest.mark.parametrize('kind', [dict, argparse.Namespace])
def test_what_timms_checkpoints_say_of_their_images(kind):
    said = {'input_size': [3, 32, 32], 'mean': [0.4], 'std': [0.2], 'crop_pct': 0.8, 'interpolation': 'bicubic'}
    assert recorded_data({'state_dict': {}, 'args': kind(**said, lr=0.1)}, 'x') == said
    for key, other in (('input_size', 224), ('mean', 'red'), ('std', None), ('crop_pct', None), ('interpolation', '')):
        rest = {name: value for name, value in said.items() if name != key}
        assert recorded_data({'args': kind(**said | {key: other})}, 'x') == rest


@pytest.mark.parametrize(
    ('said', 'size'),
    [
        ({'img_size': 96, 'in_chans': None, 'input_size': None}, (3, 96, 96)),
        ({'img_size': 96, 'in_chans': 1}, (1, 96, 96)),
        ({'img_size': 96, 'input_size': [3, 64, 64]}, [3, 64, 64]),
        ({'img_size': None, 'input_size': None}, None),
    ],
)
def test_timms_img_size(said, size):
    assert recorded_data({'args': said}, 'x') == ({'input_size': size} if size else {})
