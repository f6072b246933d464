"""The in-memory loader against torchvision's PIL pipeline, and against a training step of cifar_resnet20.

    python benchmarks/loader.py

One thread; CPU time of this process, which other work on the machine affects little. The variants alternate, and the
medians are compared.
"""

import statistics
import time

import numpy as np
import torch
from torch.utils.data import default_collate
from torchvision import transforms

import dkszoo
from dkszoo.data import ArrayImages, Augmentation, MemoryLoader, StreamSampler, View, pixel_transform, read_pixels

IMAGES, BATCH, ROUNDS = 10_000, 128, 9
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def pil_work(images: ArrayImages, count: int):
    """The work of a DataLoader worker: transform and collate; the images are opened beforehand."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    opened = [images[i] for i in range(count)]

    def work():
        for first in range(0, count, BATCH):
            default_collate([(transform(image), target) for image, target in opened[first : first + BATCH]])

    return work


def memory_loader(images: ArrayImages) -> MemoryLoader:
    pixels, targets = read_pixels(View(images), pixel_transform(32, 'bilinear'))
    sampler = StreamSampler(len(images), BATCH, seed=0)
    return MemoryLoader(pixels, targets, sampler, Augmentation(4, 'constant', 0.5), MEAN, STD, torch.device('cpu'))


def train_step(batch):
    """A whole training step of a plain cifar_resnet20."""
    net = dkszoo.create_model('cifar_resnet20', num_classes=100)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    images, targets = batch

    def work():
        torch.nn.functional.cross_entropy(net(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    images = ArrayImages(pixels, rng.integers(0, 100, IMAGES), [str(i) for i in range(100)])
    loader = memory_loader(images)
    some = IMAGES // 10
    pil, step = pil_work(images, some), train_step(next(iter(loader)))

    def memory():
        for _ in loader:
            pass

    for work in (pil, memory, step):
        work()
    rounds = [(seconds(pil) / some, seconds(memory) / IMAGES, seconds(step) / BATCH) for _ in range(ROUNDS)]
    one, many, training = (1e6 * statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(row[0] / row[1] for row in rounds)
    share = statistics.median(row[1] / row[2] for row in rounds)
    print(f'torchvision, PIL   {one:8.1f} us an image  {1e6 / one:10,.0f} images/s and core')
    print(f'loader in memory   {many:8.1f} us an image  {1e6 / many:10,.0f} images/s and core')
    print(f'step, resnet20     {training:8.1f} us an image')
    print(f'memory / PIL       {ratio:8.1f} times      (target: at least 15)')
    print(f'memory / step      {100 * share:8.2f} %          (target: at most 3)')


if __name__ == '__main__':
    main()
