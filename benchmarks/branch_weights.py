"""Distribution of DSKD's branch weights over the training images (DSKD, Fig. 2).

    dkszoo train --method dskd --experiment NAME ...
    python -m benchmarks.branch_weights runs/NAME --figure weights.png

Uses the weights of a run's last epoch and the training images without augmentation, and prints the mean and quantiles
of each branch's weight W_l (eq. 7, from the loss on the teacher's predictions). The weights of an image sum to 1, so
with two branches the second distribution mirrors the first.
"""

import argparse
from pathlib import Path

import torch

from dkszoo.engine import TrainConfig, eval_loader
from dkszoo.engine.checkpoint import LAST, read_checkpoint
from dkszoo.engine.data import open_data
from dkszoo.engine.setup import build
from dkszoo.engine.world import join_world
from dkszoo.losses import kd_loss_per_sample, loss_weights
from dkszoo.papers.stats import table
from dkszoo.weights import load_strictly, parse_yaml

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@torch.no_grad()
def read_weights(folder: Path) -> torch.Tensor:
    """Branch weights (branches, images) of a finished run."""
    config = TrainConfig.from_dict(parse_yaml((folder / 'args.yaml').read_text(encoding='utf-8')))
    config, data = open_data(config)
    setup = build(config, data, join_world('cpu'))
    checkpoint = read_checkpoint(folder / LAST)
    load_strictly(setup.task.get_eval_model(), checkpoint['state_dict'], str(folder / LAST))
    setup.task.load_task_state(checkpoint['task_state'])
    net, teacher, how = setup.task.get_net().eval(), setup.task.teacher, setup.task.trainable_module.terms['kd'].kwargs
    loader = eval_loader(
        data.train, img_size=config.img_size, mean=config.mean, std=config.std, batch_size=250, workers=0
    )
    weights = []
    for images, _ in loader:
        target = teacher(images).logits
        weights.append(loss_weights([kd_loss_per_sample(z, target, **how) for z in net(images).branch_logits]))
    return torch.cat(weights, 1)


def report(weights: torch.Tensor) -> str:
    rows = []
    for branch, values in enumerate(weights):
        quantiles = torch.quantile(values, torch.tensor(QUANTILES)).tolist()
        rows.append((str(branch), *(f'{value:.3f}' for value in (values.mean().item(), *quantiles))))
    return table(('branch', 'mean', *(f'{q:.0%}' for q in QUANTILES)), rows)


def draw(weights: torch.Tensor, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.5), layout='constrained')
    axes = figure.subplots()
    for branch, values in enumerate(weights):
        axes.hist(values.numpy(), bins=40, range=(0, 1), histtype='step', label=f'branch {branch}')
    axes.set(xlabel='weight of the branch', ylabel='training images', xlim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('folder', type=Path, help='the folder of a finished run of a method with kd and branches')
    parser.add_argument('--figure', type=Path, metavar='PNG', help='also draw the distributions')
    args = parser.parse_args()
    weights = read_weights(args.folder)
    print(report(weights))
    if args.figure:
        draw(weights, args.figure)


if __name__ == '__main__':
    main()
