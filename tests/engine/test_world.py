"""What two processes tell each other."""

import os
import pickle
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import distributed

from dkszoo.data import ArrayImages, View
from dkszoo.engine.evaluate import eval_loader, evaluate
from dkszoo.engine.folder import RunFolder
from dkszoo.engine.run import check_same
from dkszoo.engine.sums import Sums
from dkszoo.engine.world import World


@pytest.fixture
def both(tmp_path):
    """Do some work in two processes; gives what each returned."""

    def child(rank: int, work) -> None:
        try:
            address = f'file://{tmp_path}/meet'
            patience = timedelta(minutes=5)
            distributed.init_process_group('gloo', address, patience, world_size=2, rank=rank)
            (tmp_path / f'{rank}').write_bytes(pickle.dumps(work(World(torch.device('cpu'), rank, 2))))
        finally:
            os._exit(0)

    def run(work) -> list:
        pids = []
        for rank in range(2):
            if not (pid := os.fork()):
                child(rank, work)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        return [pickle.loads((tmp_path / f'{rank}').read_bytes()) for rank in range(2)]

    return run


def test_what_is_gathered_is_in_order_and_the_largest_is_of_all(both):
    found = both(lambda world: (world.gather(f'of {world.rank}'), world.largest(world.rank, -world.rank)))
    assert found == [(['of 0', 'of 1'], [1, 0])] * 2


def test_processes_that_find_different_files_do_not_begin(both, tmp_path):
    """They would wait for each other for ever."""

    def work(world: World) -> str:
        folder = RunFolder(tmp_path)
        check_same(world, (3, 0), folder)
        try:
            check_same(world, (world.rank, 0), folder)
        except ValueError as error:
            return str(error)

    for said in both(work):
        assert said.startswith('the processes find different files in ')


def test_running_statistics_are_those_of_the_first(both):
    def share(world: World) -> tuple[list, list]:
        net = torch.nn.BatchNorm1d(1)
        for tensor in (net.running_mean, net.weight.data):
            tensor.fill_(5.0 + world.rank)
        world.share_buffers(net)
        world.share_buffers(None)
        return net.running_mean.tolist(), net.weight.tolist()

    assert both(share) == [([5.0], [5.0]), ([5.0], [6.0])]


class First(torch.nn.Module):
    """Says the first of ten classes of any image."""

    def forward(self, images):
        return torch.eye(10)[:1].expand(len(images), 10)


def test_each_image_is_evaluated_once(both):
    """Of five images one process has three, and the other one of these again."""

    def figures(world: World) -> dict:
        view = View(ArrayImages(np.zeros((5, 32, 32), np.uint8), [0, 1, 1, 1, 1], []), mode='L')
        how = dict(img_size=32, mean=(0.5,), std=(0.5,), batch_size=2, workers=0, distributed=True)
        return evaluate(First(), eval_loader(view, **how), world.device, distributed=True)

    assert [found['top1'] for found in both(figures)] == [20.0, 20.0]


def test_training_figures_are_of_all_samples(both):
    """One process has had three samples and the other one."""

    def means(world: World) -> dict:
        start = {'loss': 6.0, 'samples': 3.0} if world.rank else {'loss': 10.0, 'samples': 1.0}
        return Sums(start, world.device).reduced_means(world)

    assert both(means) == [{'loss': 4.0}] * 2
