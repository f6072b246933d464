"""benchmarks/memory.py: gradient checkpointing changes the memory of a step, not the step."""

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

_spec = importlib.util.spec_from_file_location(
    'benchmarks_memory', Path(__file__).parents[1] / 'benchmarks' / 'memory.py'
)
memory = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(memory)


def found(model, checkpointing, batch):
    settings = dict(branches='dks', method='dks', threads=1)
    return memory.measure(argparse.Namespace(model=model, checkpointing=checkpointing, batch=batch, **settings))


@pytest.mark.parametrize('model', ['cifar_resnet8', pytest.param('cifar_resnet1202', marks=pytest.mark.slow)])
def test_the_step_is_the_same(model):
    off, on = (found(model, checkpointing, 3) for checkpointing in (False, True))
    assert math.isfinite(off['loss'])
    assert on['loss'] == pytest.approx(off['loss'], rel=1e-5)
    assert off['peak'] >= off['before'] > 0


def test_checkpointed_blocks_run_again():
    """Or the two figures were of the same step."""
    blocks, seen = [], lambda module, _: blocks.append(type(module).__name__ == 'BasicBlock')
    handle = register_module_forward_pre_hook(seen)
    try:
        found('cifar_resnet8', False, 3)
        once = sum(blocks)
        found('cifar_resnet8', True, 3)
    finally:
        handle.remove()
    assert sum(blocks) - once >= once + 2 * 3  # two steps, three blocks in the network itself


def test_memory_at_a_batch_of_128(monkeypatch, capsys):
    found = json.dumps({'before': 10, 'peak': 110, 'seconds': 1, 'loss': 0.5})
    monkeypatch.setattr(memory.subprocess, 'run', lambda *_, **__: SimpleNamespace(stdout=found))
    monkeypatch.setattr(sys, 'argv', ['memory.py', '--batch', '12'])
    memory.main()
    assert capsys.readouterr().out.count('10.0 MiB an image, so about    1,270 MiB at batch 128') == 2
