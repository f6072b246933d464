"""Reference losses straight from their formulas (float64 NumPy, one pair at a time), and inputs for the tests."""

import json
from pathlib import Path

import numpy as np
import torch

FIXTURES = json.loads((Path(__file__).parents[1] / 'fixtures' / 'losses.json').read_text())


def fixture_input(seed, shape, scale=1.0, loc=0.0, **_):
    # The recorded values were made with the legacy generator.
    values = np.random.RandomState(seed).normal(size=shape) * scale + loc
    return torch.from_numpy(values.astype(np.float32))


def fixture_labels(seed, n, k):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, k, size=n))


def heads(num_heads, batch=5, classes=7, seed=0, scale=2.0, dtype=torch.float64):
    """Draw leaf logits of several heads."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(num_heads, batch, classes, generator=generator, dtype=torch.float64) * scale
    return [z.to(dtype).requires_grad_() for z in drawn]


def maps(*shape, seed=0, dtype=torch.float64):
    """Draw one leaf map."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(dtype).requires_grad_()


def array(tensor):
    return tensor.detach().double().numpy()


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    """KL(p || q) per sample, 0 log 0 = 0."""
    terms = np.zeros_like(p)
    mass = p > 0
    terms[mass] = p[mass] * np.log(p[mass] / q[mass])
    return terms.sum(-1)


def cross_entropy(p, q):
    return -(p * np.log(q)).sum(-1)


def preset_matrix(pairs, num_heads):
    """beta[m][n] of a preset by its definition: m teaches n."""
    teaches = {'bidirectional': lambda m, n: m != n, 'top-down': lambda m, n: m > n, 'bottom-up': lambda m, n: m < n}
    return [[float(teaches[pairs](m, n)) for n in range(num_heads)] for m in range(num_heads)]


def synergy(logits, matrix, form='kl', eps=0.0):
    probs = [softmax(array(z)) for z in logits]
    probs = [(p + eps) / (1 + p.shape[1] * eps) for p in probs]
    match = {'kl': kl, 'ce': cross_entropy}[form]
    total = 0.0
    for m, row in enumerate(matrix):
        for n, weight in enumerate(row):
            if m != n:
                total += weight * match(probs[m], probs[n]).mean()
    return total


def attention(a, p):
    energy = (np.abs(a) ** p).mean(1).reshape(len(a), -1)
    return energy / np.maximum(np.sqrt((energy**2).sum(1, keepdims=True)), 1e-12)


def block_mean(a, factor):
    """Average pooling by an integer factor."""
    b, c, h, w = a.shape
    return a.reshape(b, c, h // factor, factor, w // factor, factor).mean((3, 5))
