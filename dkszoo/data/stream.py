"""The sample stream: order and randomness depend only on (seed, epoch, sample index, number of samples).

The order of an epoch is a permutation drawn from (seed, epoch); the randomness of a sample's transform is drawn from
(seed, epoch, index), and in the in-memory loader also from the number of samples. Neither depends on the number of
workers or processes, nor on where a run was resumed.
"""

import random
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, default_collate

MASK = 2**64 - 1


def mixed_seed(*numbers: int) -> int:
    """Hash integers to a 63-bit seed (splitmix64's finaliser, folded over them)."""
    state = 0
    for number in numbers:
        state = (state ^ (number & MASK)) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state >> 1


def seed_cpu(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (CPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - transforms use the global generator
    torch.default_generator.manual_seed(seed)


class Stream(Dataset):
    """A data set whose samples are requested as (epoch, index), each with its own randomness.

    Args:
        dataset: Returns (image, target) by index; may draw from the global generators.
        seed: The run's seed.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        samples = []
        for epoch, index in keys:
            seed_cpu(mixed_seed(self.seed, epoch, index))
            samples.append(self.dataset[index])
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        return samples


class StreamSampler(BatchSampler):
    """Batches of (epoch, index) keys for one epoch, from any step.

    Args:
        total: Samples in the data set.
        batch_size: Samples per step and process.
        seed: The run's seed.
        rank: Index of this process.
        world_size: Number of processes; each takes its part of every global batch.
    """

    def __init__(self, total: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.total, self.seed, self.rank, self.world_size = total, seed, rank, world_size
        self.global_batch = batch_size * world_size
        self.epoch, self.start = 0, 0

    @property
    def steps(self) -> int:
        """Steps of a whole epoch; a last batch with fewer than two samples per process is dropped."""
        full, rest = divmod(self.total, self.global_batch)
        return full + (rest // self.world_size > 1)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Make the next iteration start at step `start` of `epoch`."""
        self.epoch, self.start = epoch, start

    def order(self, epoch: int) -> torch.Tensor:
        """The order of all samples in an epoch, a permutation [total]."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        return torch.randperm(self.total, generator=generator)

    def part(self, step: int) -> slice:
        """The slice of the order that this process takes in one step."""
        first = step * self.global_batch
        share = min(self.global_batch, self.total - first) // self.world_size
        return slice(first + self.rank * share, first + (self.rank + 1) * share)

    def indices(self, epoch: int, step: int) -> list[int]:
        """This process's samples in one step."""
        return self.order(epoch)[self.part(step)].tolist()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, epoch = self.order(self.epoch), self.epoch
        for step in range(self.start, self.steps):
            yield [(epoch, index) for index in order[self.part(step)].tolist()]

    def __len__(self) -> int:
        return self.steps - self.start


def ignore_signals(_: int) -> None:
    """Leave signals to the main process, which ends the step and saves."""
    for name in ('SIGINT', 'SIGTERM', 'SIGUSR1'):
        if hasattr(signal, name):  # some systems lack SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def stream_loader(dataset: Dataset, sampler: StreamSampler, workers: int, pin_memory: bool) -> DataLoader:
    """A loader of the stream; its batches are (images [B, C, H, W], targets [B])."""
    return DataLoader(
        Stream(dataset, sampler.seed),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=default_collate,
        pin_memory=pin_memory,
        worker_init_fn=ignore_signals,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own, so that iterating does not draw from the global one
    )
