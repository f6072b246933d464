"""A DKS training step against the same step written the usual way, and against the baseline's.

    python benchmarks/step.py [--threads N] [--rounds N] [--compile]

The usual way: eager, NCHW, torch.optim.SGD, and a log-softmax and KL for every ordered pair of heads. Ours: the step of
train.py. CPU, `cifar_wrn16_2`, batch size 64, 100 classes; the variants alternate in one process, and ratios are
medians over the rounds. With --threads 1 CPU time is measured, which other work on the machine affects less.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import dkszoo
from dkszoo.data import ArrayImages
from dkszoo.engine import TrainConfig
from dkszoo.engine.data import fit_data
from dkszoo.engine.setup import build
from dkszoo.engine.step import Stepper
from dkszoo.engine.world import World

MODEL, BATCH, CLASSES = 'cifar_wrn16_2', 64, 100
SGD = dict(momentum=0.9, weight_decay=5e-4)


def usual_step(images: torch.Tensor, targets: torch.Tensor):
    """DKS written directly from its formulas."""
    net = dkszoo.create_model(MODEL, num_classes=CLASSES, branches='dks')
    optimizer = torch.optim.SGD(net.parameters(), 0.1, **SGD)

    def step():
        output = net(images)
        heads = [*output.branch_logits, output.logits]
        loss = sum(functional.cross_entropy(head, targets) for head in heads)
        for m, teacher in enumerate(heads):
            for n, student in enumerate(heads):
                if m != n:
                    target = functional.log_softmax(teacher, dim=1).detach()
                    given = functional.log_softmax(student, dim=1)
                    loss = loss + functional.kl_div(given, target, reduction='batchmean', log_target=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(images: torch.Tensor, targets: torch.Tensor, **settings):
    """The step of train.py."""
    pixels = np.zeros((2 * BATCH, 32, 32, 3), dtype=np.uint8)
    data = ArrayImages(pixels, [i % CLASSES for i in range(2 * BATCH)], [str(i) for i in range(CLASSES)])
    asked = TrainConfig(
        dataset='',
        model=MODEL,
        in_chans=3,
        num_classes=CLASSES,
        batch_size=BATCH,
        val_split=0.0,
        best_on='test',
        **settings,
    )
    setup = build(*fit_data(asked, data, data), World(torch.device('cpu')))
    stepper = Stepper(setup)
    setup.task.train()

    def step():
        stepper(*stepper.to_device(images, targets), 0, 0)

    return setup, step


def flops(net: torch.nn.Module, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images[:1])
    return counter.get_total_flops()


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=15, help='rounds (default 15)')
    parser.add_argument('--threads', type=int, default=0, help="threads (default: torch's)")
    parser.add_argument('--compile', action='store_true', help='also time the compiled step')
    args = parser.parse_args()
    clock = time.process_time if args.threads == 1 else time.perf_counter
    if args.threads:
        torch.set_num_threads(args.threads)
    images, targets = torch.rand(BATCH, 3, 32, 32), torch.randint(CLASSES, (BATCH,))
    baseline_setup, baseline = our_step(images, targets, method='baseline')
    setup, ours = our_step(images, targets, method='dks')
    steps = {'usual': usual_step(images, targets), 'baseline': baseline, 'dks': ours}
    if args.compile:
        steps['dks compiled'] = our_step(images, targets, method='dks', torchcompile=True)[1]
    for step in steps.values():
        step(), step()
    times = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            began = clock()
            step()
            times[name].append(clock() - began)
    print(f'{MODEL}, batch {BATCH}, {torch.get_num_threads()} threads, {args.rounds} rounds')
    for name, seconds in times.items():
        speed_up = statistics.median(u / s for u, s in zip(times['usual'], seconds, strict=True))
        print(f'  {name:14} {1000 * statistics.median(seconds):8.1f} ms   {speed_up:5.2f} times the speed of usual')
    ratio = statistics.median(d / b for d, b in zip(times['dks'], times['baseline'], strict=True))
    counted = [flops(made.task.get_net(), images) for made in (setup, baseline_setup)]
    print(f'  dks / baseline {ratio:5.2f} times the time, {counted[0] / counted[1]:.2f} times the FLOPs')


if __name__ == '__main__':
    main()
