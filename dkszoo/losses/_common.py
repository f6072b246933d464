"""Shared by all losses: the precision they compute in and the checks of their arguments.

No loss uses a matrix product. Autocast lowers only those (and convolutions), so tensors promoted here stay in float32
or float64 under autocast, and TF32 does not apply either.
"""

import math

import torch
from torch import Tensor


def promote(*tensors: Tensor) -> list[Tensor]:
    """Cast tensors to one precision: float64 if any of them is float64, else float32.

    The cast is part of the graph, so each input gets its gradient in its own dtype.

    Raises:
        ValueError: a tensor is not floating point.
    """
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise ValueError(f'expected floating-point tensors, got {tensor.dtype}')
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return [tensor.to(dtype) for tensor in tensors]


def check_logits(logits: Tensor, name: str) -> None:
    """Raise ValueError unless logits is (B, K)."""
    if logits.ndim != 2:
        raise ValueError(f'{name}: expected logits of shape (B, K), got {tuple(logits.shape)}')


def check_same_shape(got: Tensor, expected: Tensor, name: str) -> None:
    """Raise ValueError unless both tensors have the same shape (a silent broadcast would give a wrong loss)."""
    if got.shape != expected.shape:
        raise ValueError(f'{name}: shapes differ, got {tuple(got.shape)}, expected {tuple(expected.shape)}')


def check_tau(tau: float) -> None:
    """Raise ValueError unless the temperature is above zero and finite."""
    if not 0 < tau < math.inf:
        raise ValueError(f'tau: expected a finite temperature above 0, got {tau}')
