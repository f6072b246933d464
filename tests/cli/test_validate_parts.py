"""What validate.py does of itself, without a command."""

from types import SimpleNamespace

import timm
import torch

from dkszoo import engine
from dkszoo.cli.subject import Subject, read_pretrained
from dkszoo.cli.validate import measure


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


def test_weights_of_timms_are_measured_as_timm_does(monkeypatch):
    """At the size of evaluation, and by the names of their classes."""
    net = timm.create_model('test_mambaout')
    net.pretrained_cfg |= {'tag': 'in1k', 'label_names': ['a', 'b']}
    monkeypatch.setattr(engine, 'create_model', lambda *_, **__: net)
    subject = read_pretrained(SimpleNamespace(num_classes=None, in_chans=None), 'test_mambaout')
    assert (subject.data['input_size'], subject.classes) == ((3, 192, 192), ['a', 'b'])
