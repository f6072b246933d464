"""The synergy loss against the two usual implementations.

    python benchmarks/synergy.py [--threads 2]

Forward and backward, 4 heads, batch size 256, 1,000 classes, CPU. `pairwise`: the KL of two log-softmaxes for every
ordered pair, by autograd. `official`: the same with both distributions smoothed by 1e-8, as in the authors' code. The
variants alternate in one process; medians of the ratios per round.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional

from dkszoo.losses import synergy_loss

HEADS, BATCH, CLASSES = 4, 256, 1000


def pairwise(logits: list[torch.Tensor]) -> torch.Tensor:
    loss = logits[0].new_zeros(())
    for m, teacher in enumerate(logits):
        for n, student in enumerate(logits):
            if m != n:
                target = functional.log_softmax(teacher.detach(), dim=1)
                given = functional.log_softmax(student, dim=1)
                loss = loss + functional.kl_div(given, target, reduction='batchmean', log_target=True)
    return loss


def official(logits: list[torch.Tensor], eps: float = 1e-8) -> torch.Tensor:
    def smooth(z: torch.Tensor) -> torch.Tensor:
        return (functional.softmax(z, dim=1) + eps) / (1 + CLASSES * eps)

    loss = logits[0].new_zeros(())
    for m, teacher in enumerate(logits):
        for n, student in enumerate(logits):
            if m != n:
                p, q = smooth(teacher.detach()), smooth(student)
                loss = loss + (p * (p.log() - q.log())).sum(dim=1).mean()
    return loss


def timed(loss, logits: list[torch.Tensor]) -> float:
    for z in logits:
        z.grad = None
    began = time.perf_counter()
    loss(logits).backward()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=101)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    logits = [torch.randn(BATCH, CLASSES, requires_grad=True) for _ in range(HEADS)]
    variants = {'ours': synergy_loss, 'pairwise': pairwise, 'official': official}
    times = {name: [] for name in variants}
    for _ in range(args.rounds + 5):
        for name, loss in variants.items():
            times[name].append(timed(loss, logits))
    times = {name: values[5:] for name, values in times.items()}
    print(f'{HEADS} heads, batch {BATCH}, {CLASSES} classes, {args.threads} threads, {args.rounds} rounds')
    for name, values in times.items():
        ratio = statistics.median(v / own for v, own in zip(values, times['ours'], strict=True))
        print(f'  {name:10} {statistics.median(values):7.2f} ms   ours is {ratio:5.2f} times as fast')


if __name__ == '__main__':
    main()
