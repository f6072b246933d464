"""DKS in your own training loop, with timm's optimizer and checkpoints, on scikit-learn's digits.

python examples/own_loop.py
"""

import argparse
from pathlib import Path

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver
from torch.utils.data import DataLoader

import dkszoo
from dkszoo.data import Augmentation, View, data_facts, open_dataset, train_transform

MODEL = dict(num_classes=10, in_chans=1)
FACTS = data_facts('digits')


def digits(split: str, augmentation: Augmentation, batch_size: int) -> DataLoader:
    view = View(open_dataset('digits', None, split), mode='L')
    view.transform = train_transform(32, FACTS.mean, FACTS.std, augmentation)
    return DataLoader(view, batch_size, shuffle=split == 'train', drop_last=split == 'train')


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--output', type=Path, default=Path('own_loop'), help='folder of the checkpoints')
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    net = dkszoo.create_model('cifar_resnet8', branches='dks', **MODEL)
    task = dkszoo.DeepSupervisionTask(net, method='dks')
    optimizer = create_optimizer_v2(task, 'momentum', lr=0.05, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    saver_args = argparse.Namespace(model='cifar_resnet8', model_kwargs=None)
    folder = dict(checkpoint_dir=str(args.output), max_history=1)
    saver = CheckpointSaver(net.backbone, optimizer, saver_args, task=task, **folder)
    train, test = digits('train', Augmentation(pad=2), 64), digits('test', Augmentation(), 256)

    for epoch in range(args.epochs):
        task.train()
        task.set_progress(epoch, args.epochs)  # for methods that change over the epochs (alpha_schedule)
        for images, labels in train:
            loss = task(images, labels)['loss']
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        task.eval()
        with torch.inference_mode():
            right = sum((net(images).logits.argmax(1) == labels).sum().item() for images, labels in test)
        accuracy = 100 * right / len(test.dataset)
        print(f'epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {accuracy:.2f} %')
        saver.save_checkpoint(epoch, metric=accuracy)

    # The branches are gone: timm's own network, its own loader, the same logits.
    plain = timm.create_model('cifar_resnet8', checkpoint_path=str(args.output / 'last.pth.tar'), **MODEL).eval()
    images, _ = next(iter(test))
    with torch.inference_mode():
        assert torch.equal(plain(images), net(images).logits)
    print(f'{args.output / "last.pth.tar"}: {sum(p.numel() for p in plain.parameters()):,} parameters, no branches')


if __name__ == '__main__':
    main()
