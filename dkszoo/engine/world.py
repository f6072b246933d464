"""The device and the processes of a run."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """This process among all; one alone unless started by torchrun."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def join_world(device: str = '') -> World:
    """The device asked for, or the best there is, and this process's place among those torchrun started.

    Raises:
        ValueError: The device does not exist here.
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
    torch.distributed.init_process_group('nccl' if chosen.type == 'cuda' else 'gloo')
    return World(chosen, torch.distributed.get_rank(), torch.distributed.get_world_size())


def best_device() -> str:
    if torch.cuda.is_available():
        return 'cuda'
    return 'mps' if torch.backends.mps.is_available() else 'cpu'
