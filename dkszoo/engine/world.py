"""The device and the processes of a run."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """The device of this process, and its rank among all; it is the only one unless started by torchrun."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, value) -> list:
        """The value of every process, in order of rank; all of them must call it."""
        values = [value]
        if self.size > 1:
            values = [None] * self.size
            torch.distributed.all_gather_object(values, value)
        return values

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over the processes; all of them must call it."""
        if self.size > 1:
            shared = torch.tensor(numbers)  # in host memory: no wait for an accelerator
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
            return shared.tolist()
        return list(numbers)

    @torch.no_grad()
    def share_buffers(self, module: torch.nn.Module | None) -> None:
        """Give all processes the buffers (running statistics) of the first one, which are saved."""
        if self.size > 1 and module is not None:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait until all processes get here."""
        if self.size > 1:
            torch.distributed.barrier()


def join_world(device: str) -> World:
    """The given device, or with '' the best available, and this process's rank among those torchrun started.

    Raises:
        ValueError: The device cannot be used here.
    """
    size, local_rank = int(os.environ.get('WORLD_SIZE', 1)), int(os.environ.get('LOCAL_RANK', 0))
    name = device or best_device()
    if size > 1 and name == 'cuda':
        name = f'cuda:{local_rank}'
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except Exception as error:
        raise ValueError(f'device {name!r} cannot be used here (leave --device out for {best_device()!r})') from error
    if chosen.type == 'meta':
        raise ValueError('device meta holds no numbers to train on (choose another)')
    if size == 1:
        return World(chosen)
    if chosen.type == 'cuda':
        torch.cuda.set_device(chosen)
    torch.distributed.init_process_group('cpu:gloo,cuda:nccl' if chosen.type == 'cuda' else 'gloo')
    return World(chosen, torch.distributed.get_rank(), torch.distributed.get_world_size())


def best_device() -> str:
    if torch.cuda.is_available():
        return 'cuda'
    return 'mps' if torch.backends.mps.is_available() else 'cpu'
