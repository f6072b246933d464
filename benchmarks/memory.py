"""Peak memory of a training step with branches, without and with gradient checkpointing.

    python benchmarks/memory.py [--batch 32] [--model cifar_resnet1202] [--branches dks] [--method dks] [--threads 1]

Each case runs in a process of its own: first a step of two images, which allocates gradients and momentum, then one of
the whole batch. On a CPU the peak is that of the process, and the part that grows with the batch is the peak less that
after the first step; on CUDA it is the memory that torch reserved.
"""

import argparse
import json
import subprocess
import sys
import time

import torch

import dkszoo
from dkszoo.engine.timing import peak_memory

CLASSES = 100


def measure(args: argparse.Namespace) -> dict:
    """One step of the whole batch: peak memory before and after it in MiB, its time in seconds, and its loss."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    net = dkszoo.create_model(args.model, num_classes=CLASSES, branches=args.branches).to(device)
    if args.checkpointing:
        net.set_grad_checkpointing()
    task = dkszoo.DeepSupervisionTask(net, args.method, device=device)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    for batch in (2, args.batch):
        before, start = peak_memory(device), time.perf_counter()
        images = torch.randn(batch, 3, 32, 32, device=device)
        loss = task(images, torch.arange(batch, device=device) % CLASSES)['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        seconds = time.perf_counter() - start
    return {'before': before, 'peak': peak_memory(device), 'seconds': seconds, 'loss': loss.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description='Peak memory of a training step.')
    parser.add_argument('--batch', type=int, default=32, help='images (default 32)')
    parser.add_argument('--model', default='cifar_resnet1202', help='model (default cifar_resnet1202)')
    parser.add_argument('--branches', default='dks', help='branch design (default dks)')
    parser.add_argument('--method', default='dks', help='method (default dks)')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default 1)')
    parser.add_argument('--checkpointing', choices=('off', 'on'), help='measure only this, and print JSON')
    args = parser.parse_args()
    if args.checkpointing:
        args.checkpointing = args.checkpointing == 'on'
        print(json.dumps(measure(args)))
        return
    print(
        f'{args.model}, branches {args.branches}, method {args.method}, batch {args.batch}, torch {torch.__version__}'
    )
    for checkpointing in ('off', 'on'):
        argv = [sys.executable, __file__, '--checkpointing', checkpointing]
        for name in ('batch', 'model', 'branches', 'method', 'threads'):
            argv += [f'--{name}', str(getattr(args, name))]
        found = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        grows = (found['peak'] - found['before']) / (args.batch - 2)
        print(
            f'  checkpointing {checkpointing:3}: peak {found["peak"]:8,.0f} MiB, {grows:6.1f} MiB an image, '
            f'so about {found["before"] + 126 * grows:8,.0f} MiB at batch 128; step {found["seconds"]:.0f} s, '
            f'loss {found["loss"]:.4f}',
            flush=True,
        )


if __name__ == '__main__':
    main()
