"""DDP on two processes: every parameter of every design is used in every step (find_unused_parameters=False)."""

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dkszoo import DeepSupervisionTask
from dkszoo.branches import attach_branches

CASES = [
    ('cifar_resnet8', 'dks', 'dks'),
    ('cifar_resnet8', 'bottleneck', 'ds'),
    ('cifar_resnet8', 'dks', 'baseline'),  # no term uses the branches
    ('test_convnext', 'mirror', 'ds'),
    ('test_mambaout', 'mirror', 'ds'),
    ('test_vit', 'linear', 'ds'),
    ('legacy_seresnet18', 'conv', 'ds'),
]


def train(rank, address, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    for name, design, method in CASES:
        torch.manual_seed(0)
        net = attach_branches(timm.create_model(name, num_classes=5), design)
        task = DeepSupervisionTask(net, method, verbose=False)
        task.prepare_distributed(find_unused_parameters=False)
        optimizer = torch.optim.SGD(task.parameters(), lr=0.01)
        torch.manual_seed(1 + rank)
        size = 32 if name.startswith('cifar') else net.pretrained_cfg['input_size'][-1]
        for _ in range(2):  # DDP reports a missing gradient in the second step
            optimizer.zero_grad()
            task(torch.randn(2, 3, size, size), torch.randint(5, (2,)))['loss'].backward()
            optimizer.step()
        missing = [n for n, p in net.named_parameters() if p.grad is None]
        results[rank, name, design, method] = missing, [p.grad.double().sum().item() for p in net.parameters()]
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path):
    with mp.get_context('spawn').Manager() as manager:
        results = manager.dict()
        mp.spawn(train, (f'file://{tmp_path}/meet', results), nprocs=2)
        for case in CASES:
            (missing, first), (_, second) = results[(0, *case)], results[(1, *case)]
            assert missing == [], case
            assert first == second, case
            assert any(first), case
