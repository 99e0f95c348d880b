"""Cross-entropy of a linear classifier, without ever holding all logits.

Shapes: M targets, D width, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Logits of one chunk, in floats. On a CPU 512 rows of 4,096 classes: small enough to stay near the caches, large enough
# to keep the matrix products efficient. On a GPU, which many small products leave idle, half a gigabyte.
CHUNK_LOGITS, CHUNK_LOGITS_GPU = 2 << 20, 128 << 20


def chunk_rows(device: torch.device, classes: int) -> int:
    """How many rows of so many classes are held at once."""
    return max(16, (CHUNK_LOGITS if device.type == "cpu" else CHUNK_LOGITS_GPU) // classes)


class SoftTargets(NamedTuple):
    """Targets that a teacher makes: (1 - share) the row's target + share softmax(states vectors^T)."""

    states: Tensor  # [M, D']
    vectors: Tensor  # [C, D']
    shares: Tensor  # [M], in [0, 1]


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over chunks of rows: three matrix products, one exponential, nothing twice.

    With E = exp(logits - their maximum) and Z its row sums, d loss / d logits = E / Z - target: Z divides rows of width
    D after the products instead of rows of width C before them.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, soft: SoftTargets | None) -> Tensor:
        rows = chunk_rows(hidden.device, weight.shape[0])
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows, None]
            logits = (h @ weight.T).float()
            picked, highest = logits.gather(1, t), logits.amax(dim=1, keepdim=True)
            if soft is not None:
                share = soft.shares[start : start + rows, None]
                probabilities = (soft.states[start : start + rows] @ soft.vectors.T).float().softmax(dim=1)
                probabilities.scatter_add_(1, t, -torch.ones_like(picked)).mul_(share)  # less the one-hot
                picked = picked + (probabilities * logits).sum(dim=1, keepdim=True)
            e = logits.sub_(highest).exp_()
            z = e.sum(dim=1, keepdim=True)
            losses[start : start + rows] = (z.log() + highest - picked)[:, 0]
            e.scatter_add_(1, t, -z)
            if soft is not None:
                e -= probabilities.mul_(z)
            e = e.to(hidden.dtype)
            grad_hidden[start : start + rows] = (e @ weight).float() / z
            scaled = h.float() / z
            if e.dtype == torch.float32:
                grad_weight.addmm_(e.T, scaled)
            else:
                grad_weight += (e.T @ scaled.to(e.dtype)).float()
        grad_hidden = grad_hidden.to(hidden.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, soft: SoftTargets | None = None) -> Tensor:
    """Sum over M of -log softmax(hidden weight^T)[target].

    Args:
        hidden: [M, D].
        weight: [C, D].
        targets: int64 [M].
        soft: a teacher's targets; it gets no gradient.

    Returns:
        A scalar in float32: the sum, so that the caller decides what to divide by.
    """
    with torch.autocast(hidden.device.type, enabled=False):  # the chunks decide their own precision
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight.to(hidden.dtype), targets, soft)
    return loss
