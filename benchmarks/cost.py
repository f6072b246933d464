"""Step-time ratio predicted by `dkszoo cost` against the measured one.

    python -m benchmarks.cost [--threads N] [--pairs N]

Training steps (forward, loss, backward, SGD) with and without branches alternate in one process; the ratio is the
median over the pairs. With --threads 1 CPU time is measured, which other work on the machine affects less.
"""

import argparse
import statistics
import time

import timm
import torch
from torch import nn

import dkszoo

# network, design, side of the images, batch
CASES = [
    ('cifar_resnet20', 'dks', 32, 64),
    ('cifar_wrn16_2', 'dks', 32, 64),
    ('cifar_densenet40_12', 'dks', 32, 32),
    ('resnet18', 'dks', 128, 16),
    ('efficientnet_b0', 'mirror', 128, 16),
    ('vit_tiny_patch16_224', 'linear', 224, 8),
]


def stepper(model: nn.Module, loss, images: torch.Tensor, targets: torch.Tensor):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()

    def step():
        loss(images, targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(name: str, design: str, side: int, batch: int, pairs: int, clock) -> float:
    """Median ratio of the time of a step with branches to one without; the first pair is warm-up."""
    images, targets = torch.randn(batch, 3, side, side), torch.randint(10, (batch,))
    net = dkszoo.create_model(name, branches=design, num_classes=10)
    task = dkszoo.DeepSupervisionTask(net, 'dks', verbose=False)
    plain = timm.create_model(name, num_classes=10)
    deep = stepper(net, lambda x, y: task(x, y)['loss'], images, targets)
    usual = stepper(plain, lambda x, y: nn.functional.cross_entropy(plain(x), y), images, targets)
    ratios = []
    for i in range(pairs + 1):
        start = clock()
        deep()
        middle = clock()
        usual()
        if i:
            ratios.append((middle - start) / (clock() - middle))
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--pairs', type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    print(f'torch {torch.__version__}, timm {timm.__version__}, CPU, {args.threads} threads, {args.pairs} pairs')
    print('| network | branches | images | measured | predicted | error |')
    print('|---|---|---|---|---|---|')
    for name, design, side, batch in CASES:
        measured = measure(name, design, side, batch, args.pairs, clock)
        predicted = dkszoo.cost(name, design, img_size=side, batch_size=batch, num_classes=10).step_ratio
        row = (name, design, f'{batch} of {side}x{side}', f'{measured:.2f}', f'{predicted:.2f}')
        print(f'| {" | ".join(row)} | {predicted / measured - 1:+.0%} |', flush=True)


if __name__ == '__main__':
    main()
