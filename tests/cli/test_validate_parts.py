"""What validate.py does of itself, without a command."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from dkszoo import engine
from dkszoo.cli.subject import Subject, open_view, read_pretrained, recorded
from dkszoo.cli.validate import find_names, measure
from dkszoo.data import ArrayImages


def test_a_processors_words_for_short_memory(monkeypatch):
    monkeypatch.setattr(engine, 'eval_loader', lambda *_, batch_size, **__: batch_size)

    def short_of_memory(net, batch_size, *args, **kwargs):
        if batch_size > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return {}

    monkeypatch.setattr(engine, 'evaluate', short_of_memory)
    monkeypatch.setattr(engine.CalibrationError, 'compute', lambda self: 0.0)
    subject = Subject(torch.nn.Linear(1, 1), 'net', {})
    assert measure(subject, None, {}, 8, 0, torch.device('cpu')).batch_size == 2


def test_what_an_attempt_measured_before_memory_was_short_does_not_count(monkeypatch):
    monkeypatch.setattr(engine, 'eval_loader', lambda *_, batch_size, **__: batch_size)

    def short_of_memory(net, batch_size, *_, calibration):
        calibration.update(100 * torch.eye(2), torch.tensor([0, 1]))
        if batch_size > 2:
            calibration.update(100 * torch.eye(2), torch.tensor([1, 0]))
            raise RuntimeError('out of memory')
        return {}

    monkeypatch.setattr(engine, 'evaluate', short_of_memory)
    subject = Subject(torch.nn.Linear(1, 1), 'net', {})
    assert measure(subject, None, {}, 4, 0, torch.device('cpu')).ece == 0


def test_images_that_a_model_does_not_take(monkeypatch):
    images = [(torch.zeros(2, 3, 33, 33), torch.zeros(2, dtype=torch.long))]
    monkeypatch.setattr(engine, 'eval_loader', lambda *_, **__: images)
    subject, how = Subject(timm.create_model('test_vit'), 'test_vit', {}), {'mean': (0.5,) * 3, 'img_size': 33}
    with pytest.raises(ValueError, match="'test_vit' does not take 33x33 images"):
        measure(subject, None, how, 2, 0, torch.device('cpu'))


def test_weights_of_timms_are_measured_as_timm_does(monkeypatch):
    """At the size of evaluation, and by the names of their classes."""
    net = timm.create_model('test_mambaout')
    net.pretrained_cfg |= {'tag': 'in1k', 'label_names': ['a', 'b']}
    monkeypatch.setattr(engine, 'create_model', lambda *_, **__: net)
    subject = read_pretrained(SimpleNamespace(model='test_mambaout', num_classes=None, in_chans=None))
    assert (subject.data['input_size'], subject.classes) == ((3, 192, 192), ['a', 'b'])


def test_a_description_that_says_little_of_its_images():
    data = {'input_size': [3, 224, 224], 'mean': [0.5] * 3, 'std': [0.5] * 3, 'crop_pct': None}
    subject = recorded(None, {'arch': 'resnet18', 'data': data})
    assert (subject.data['crop_pct'], subject.data['interpolation']) == (0.875, 'bicubic')


def test_another_data_set_is_not_looked_for_in_the_folder_of_the_first():
    net = SimpleNamespace(num_classes=10)
    subject = Subject(net, 'cifar_resnet8', {'mean': (0.5,)}, None, {}, ('torch/mnist', 'nowhere'))
    assert len(open_view(SimpleNamespace(dataset='digits', data_dir=None, split='test'), subject)) == 359
    with pytest.raises(ValueError, match="'nowhere'"):
        open_view(SimpleNamespace(dataset=None, data_dir=None, split='test'), subject)


def test_gray_images_are_coloured_for_a_model_of_colour():
    subject = Subject(SimpleNamespace(num_classes=10), 'net', {'mean': (0.5,) * 3})
    view = open_view(SimpleNamespace(dataset='digits', data_dir=None, split='test'), subject)
    assert view[0][0].mode == 'RGB'


def test_images_of_no_named_classes(monkeypatch):
    images = ArrayImages(np.zeros((2, 8, 8), dtype=np.uint8), [0, 1], [])
    monkeypatch.setattr('dkszoo.cli.subject.open_dataset', lambda *_: images)
    subject = Subject(SimpleNamespace(num_classes=2), 'net', {'mean': (0.5,)}, ['a', 'b'], {}, ('digits', None))
    assert len(open_view(SimpleNamespace(dataset=None, data_dir=None, split='test'), subject)) == 2


def test_a_folder_with_brackets_is_no_pattern():
    name = 'local-dir:models/[a]'
    assert find_names(SimpleNamespace(checkpoint='', model=name)) == [name]


def test_a_folder_of_images_for_a_model_of_another_set(tmp_path):
    """An empty name is one, too."""
    subject = SimpleNamespace(dataset=('digits', None), data={'mean': (0.5,)})
    with pytest.raises(ValueError, match='no data folder'):
        open_view(SimpleNamespace(dataset='', data_dir=str(tmp_path / 'nowhere'), split='test'), subject)


def test_the_layout_is_that_of_training(monkeypatch):
    subject = recorded(torch.nn.Conv2d(3, 2, 3), {'arch': 'x', 'data': {}, 'evaluation': {'channels_last': True}})
    monkeypatch.setattr(engine, 'eval_loader', lambda *_, **__: None)
    monkeypatch.setattr(engine, 'evaluate', lambda _, __, ___, channels_last, **____: {'channels_last': channels_last})
    assert measure(subject, None, {}, 4, 0, torch.device('cpu')).figures == {'channels_last': True}
    assert subject.net.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('training', [True, False])
def test_a_network_that_was_looked_at_keeps_its_mode(training):
    net, cpu = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).train(training), torch.device('cpu')
    engine.check_images(net, 'net', (1, 2, 2))
    assert net.training is training
    engine.evaluate(net, [(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long))], cpu)
    assert net.training is training


def test_weights_of_gray_images_for_colour_ones():
    args = SimpleNamespace(model='cifar_resnet20.dks_fashion_mnist', num_classes=None, in_chans=3)
    subject = read_pretrained(args)
    assert [len(subject.data[key]) for key in ('mean', 'std')] == [3, 3]
    assert subject.data['input_size'][0] == 3
