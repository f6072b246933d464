"""The random generators a run draws from."""

import random

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed every generator a run draws from, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict:
    """The state of every generator a run draws from, as plain data and tensors (long tuples pickle slowly)."""
    version, words, next_gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - timm's mixup draws from it
    state = {
        'python': (version, torch.from_numpy(np.array(words, dtype=np.int64)), next_gauss),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
    }
    if device.type == 'cuda':
        state['cuda'] = torch.cuda.get_rng_state(device)
    if device.type == 'mps':
        state['mps'] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict, device: torch.device) -> None:
    """The inverse of `rng_state`.

    Raises:
        ValueError: NumPy's position is outside its state.
    """
    version, words, next_gauss = state['python']
    random.setstate((version, tuple(words.tolist()), next_gauss))
    name, keys, position, *rest = state['numpy']
    if not 0 <= position <= len(keys):  # NumPy would read beyond its own state
        raise ValueError(f"NumPy's position is {position}, beyond its {len(keys)} numbers")
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, *rest))  # noqa: NPY002
    torch.set_rng_state(state['torch'])
    if device.type == 'cuda' and 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'], device)
    if device.type == 'mps' and 'mps' in state:
        torch.mps.set_rng_state(state['mps'])
