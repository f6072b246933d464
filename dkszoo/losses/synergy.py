"""Synergy loss of DKS: every head learns from the current predictions of the other heads.

Paper: Deeply-supervised Knowledge Synergy (Sun et al., CVPR 2019), section 3.2, the term Ls of eq. 4.
"""

import difflib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_logits, check_same_shape, promote

PAIRS = ('bidirectional', 'top-down', 'bottom-up')
FORMS = ('kl', 'ce')


def synergy_loss(
    logits: Sequence[Tensor],
    pairs: str = 'bidirectional',
    beta: float | Sequence[Sequence[float]] | Tensor | None = None,
    form: str = 'kl',
    eps: float = 0.0,
) -> Tensor:
    """Pairwise knowledge matching between heads, in nats: summed over the pairs, averaged over the batch.

    With p_h = softmax(z_h) at temperature 1 and sg the stop gradient::

        kl:  1/B sum_b sum_{(m, n) in pairs} beta[m][n] sum_k sg p_m (log sg p_m - log p_n)
        ce:  1/B sum_b sum_{(m, n) in pairs} beta[m][n] sum_k sg p_m (- log p_n)

    m teaches n. Both forms have the gradient d/dz_n = 1/B (sum_m beta[m][n] p_n - sum_m beta[m][n] p_m); they differ
    by the entropy of the teaching heads, which the paper's H includes and the official code subtracts. The paper
    uses beta = 1 and all ordered pairs. A probability that underflows to 0 adds 0, but logits must be finite (mask a
    class with -1e9, not with -inf). A single head has no pair: the loss is 0.

    Time is linear in the number of heads (a matrix adds one multiply-add per pair), memory is O(heads x batch x
    classes): a head is compared with the sum of its teachers, not with each of them. First derivatives only.

    Args:
        logits: one (B, K) tensor per head, shallow to deep, the main head last.
        pairs: 'bidirectional' (all ordered pairs), 'top-down' (the deeper teaches the shallower) or 'bottom-up'.
        beta: None (1), one weight for all pairs, or a matrix beta[m][n] >= 0 (row teaches column). A matrix weights
            the pairs of the preset `pairs`; its other entries are ignored. All values of a nested sequence except the
            diagonal are checked; those of a tensor are not, as that would make the host wait for the device.
        form: 'kl' or 'ce'.
        eps: smoothing of both distributions, (p + eps) / (1 + K eps), in value and gradient; the official DKS
            code uses 1e-8, 0 is the exact loss.

    Returns:
        A scalar, float32 (float64 if a head is float64).

    Raises:
        ValueError: no head, heads of different shapes, an unknown preset or form, a beta or eps out of range.
    """
    _check_choice('pairs', pairs, PAIRS)
    _check_choice('form', form, FORMS)
    # Below 1e-30 eps would vanish in float32, where p underflows to 0 as well.
    if eps != 0 and not 1e-30 <= eps < 1:
        raise ValueError(f'eps: expected 0 or a value from 1e-30 to below 1, got {eps}')
    if len(logits) == 0:
        raise ValueError('logits: expected at least one head, got none')
    check_logits(logits[0], 'logits[0]')
    for i, head in enumerate(logits):
        check_same_shape(head, logits[0], f'logits[{i}]')
    heads = promote(*logits)
    scale, matrix = _split_beta(beta, pairs, heads)
    loss = _Synergy.apply(pairs, matrix, form, float(eps), *heads)
    return loss if scale is None else loss * scale


class _Synergy(torch.autograd.Function):
    """Closed form: value and gradients of all heads in one pass, in O(heads x batch x classes).

    With T_n = sum_m beta[m][n] p_m, c the column sums (how much a head is taught) and r the row sums of beta (how much
    it teaches), the gradient of head h is its pull G_h = c_h p_h - T_h, and the values follow from the pulls::

        kl = sum_h (r_h p_h - T_h) . log p_h = sum_h G_h . log p_h + sum_h (r_h - c_h) p_h . log p_h
        ce = sum_h -T_h . log p_h            = sum_h G_h . log p_h - sum_h c_h p_h . log p_h

    On a CPU, memory traffic and page faults dominate the cost, so heads are not stacked and are updated in place.
    """

    @staticmethod
    def forward(ctx, pairs: str, matrix: Tensor | None, form: str, eps: float, *logits: Tensor) -> Tensor:
        batch, classes = logits[0].shape
        log_probs = [F.log_softmax(z, dim=-1) for z in logits]
        # Not log_p.exp(): on a CPU the fused softmax is the faster of the two.
        probs = smooth = [F.softmax(z, dim=-1) for z in logits]
        if eps:
            smooth = [(p + eps) / (1 + classes * eps) for p in probs]
            log_probs = [q.log() for q in smooth]
        taught, teaches = _sums(len(logits), pairs, matrix)
        if form == 'kl':
            _centre(log_probs)
            own = [r - c for r, c in zip(teaches, taught, strict=True)]
        else:
            own = [-c for c in taught]
        value = 0.0
        for weight, q, log_q in zip(own, smooth, log_probs, strict=True):
            if isinstance(weight, Tensor) or weight != 0:
                value = value + weight * (q * log_q).sum()
        pulls = _pulls(smooth, pairs, matrix)
        for pull, log_q in zip(pulls, log_probs, strict=True):
            value = value + log_q.mul_(pull).sum()
        if eps:
            # d log(p + eps) / dp = 1 / (p + eps): a pull is damped where eps outweighs p. Its sum over the classes,
            # which is 0 without eps, then has to go back through the softmax.
            pulls = [pull.mul_(p / (p + eps)) for pull, p in zip(pulls, probs, strict=True)]
            pulls = [pull - p * pull.sum(-1, keepdim=True) for pull, p in zip(pulls, probs, strict=True)]
        ctx.save_for_backward(*pulls)
        return value / batch

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        if torch.is_grad_enabled():  # second derivatives, which would be silently wrong
            raise RuntimeError('synergy_loss has first derivatives only (leave create_graph=True out)')
        pulls = ctx.saved_tensors  # read once: activation checkpointing allows no more
        scale = grad / pulls[0].shape[0]
        return None, None, None, None, *(pull * scale for pull in pulls)


def _centre(log_probs: list[Tensor]) -> None:
    """Subtract the largest log-probability over the heads from each, in place.

    r_h p_h - T_h sums to 0 over the heads, so any common reference leaves the value unchanged. With this one, equal
    heads give exactly 0 instead of rounding noise; unlike one head's, it is never far below a head with mass.
    """
    reference = log_probs[0].clone()
    for log_p in log_probs[1:]:
        reference = torch.maximum(reference, log_p, out=reference)
    for log_p in log_probs:
        log_p.sub_(reference)


def _sums(num_heads: int, pairs: str, matrix: Tensor | None) -> tuple[list, list]:
    """How much each head is taught (column sums of beta) and how much it teaches (row sums)."""
    if matrix is not None:
        return list(matrix.sum(0).unbind()), list(matrix.sum(1).unbind())
    shallower = list(range(num_heads))
    deeper = shallower[::-1]
    if pairs == 'bidirectional':
        return [num_heads - 1] * num_heads, [num_heads - 1] * num_heads
    return (deeper, shallower) if pairs == 'top-down' else (shallower, deeper)


def _pulls(probs: list[Tensor], pairs: str, matrix: Tensor | None) -> list[Tensor]:
    """Pull c_h p_h - T_h of each head. May overwrite probs."""
    if matrix is not None:
        stacked = torch.stack(probs)
        pull = stacked * matrix.sum(0)[:, None, None]
        # Not a matmul, which would follow autocast and TF32.
        for row, p in zip(matrix.unbind(), stacked.unbind(), strict=True):
            pull.addcmul_(row[:, None, None], p, value=-1)
        return list(pull.unbind())
    total = torch.zeros_like(probs[0])
    if pairs == 'bidirectional':
        for p in probs:
            total.add_(p)
        return [p.mul_(len(probs)).sub_(total) for p in probs]
    # Teachers come first. The running sum includes the head itself, hence num_teachers + 1.
    for num_teachers, p in enumerate(probs[::-1] if pairs == 'top-down' else probs):
        total.add_(p)
        p.mul_(num_teachers + 1).sub_(total)
    return probs


def _split_beta(beta, pairs: str, heads: list[Tensor]) -> tuple[float | Tensor | None, Tensor | None]:
    """Split beta into (weight of the whole loss, matrix restricted to the pairs); either may be None."""
    num_heads = len(heads)
    if beta is None:
        return None, None
    if not isinstance(beta, Tensor) and hasattr(beta, 'tolist'):  # NumPy numbers and arrays
        beta = beta.tolist()
    if isinstance(beta, int | float):
        if not 0 <= beta < float('inf'):
            raise ValueError(f'beta: expected a weight >= 0, got {beta}')
        return beta, None
    if isinstance(beta, Tensor):
        if beta.ndim == 0:
            return beta.to(heads[0]), None
        matrix, shape = beta.detach(), tuple(beta.shape)
    else:
        matrix = torch.tensor(_check_rows(beta, num_heads), dtype=heads[0].dtype)
        shape = tuple(matrix.shape)
    if shape != (num_heads, num_heads):
        raise ValueError(f'beta: expected a {num_heads} x {num_heads} matrix, one row per head, got shape {shape}')
    # A blocking copy to a GPU would wait for all its queued work.
    matrix = matrix.to(heads[0].device, heads[0].dtype, non_blocking=True)
    lower, upper = matrix.tril(-1), matrix.triu(1)
    return None, {'bidirectional': lower + upper, 'top-down': lower, 'bottom-up': upper}[pairs]


def _check_rows(beta: Sequence[Sequence[float]], num_heads: int) -> list[list[float]]:
    """Check a matrix of nested numbers and return it as lists of floats."""
    if any(isinstance(row, int | float) or getattr(row, 'ndim', 1) == 0 for row in beta):
        raise ValueError(f'beta: expected a {num_heads} x {num_heads} matrix, one row per head, got one row of numbers')
    rows = [[float(weight) for weight in row] for row in beta]
    lengths = [len(row) for row in rows]
    if lengths != [num_heads] * num_heads:
        raise ValueError(f'beta: expected a {num_heads} x {num_heads} matrix, one row per head, got rows of {lengths}')
    for m, row in enumerate(rows):
        for n, weight in enumerate(row):
            if m != n and not 0 <= weight < float('inf'):
                raise ValueError(f'beta[{m}][{n}]: expected a finite weight >= 0, got {weight}')
    return rows


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        near = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.0)[0]
        raise ValueError(f'{name}: unknown value {value!r} (nearest: {near!r}; valid: {", ".join(valid)})')
