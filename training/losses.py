"""Cross-entropy of a linear classifier, without ever holding all logits.

Shapes: M targets, D width, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits of one chunk, in floats: 1,024 rows of 4,096 classes. Small enough to stay near the caches of a CPU,
# large enough to keep the matrix products efficient.
_CHUNK_LOGITS = 4 << 20


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over chunks of rows: three matrix products, nothing recomputed."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        rows = max(16, _CHUNK_LOGITS // weight.shape[0])
        classes = weight.shape[0]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows, None]
            logits = (h @ weight.T).float()
            picked = logits.gather(1, t).squeeze(1)
            mean = logits.mean(dim=1) if smoothing else 0.0
            normaliser = logits.logsumexp(dim=1)
            losses[start : start + rows] = normaliser - (1 - smoothing) * picked - smoothing * mean
            grad = logits.sub_(normaliser[:, None]).exp_()
            if smoothing:
                grad.sub_(smoothing / classes)
            grad.scatter_add_(1, t, torch.full_like(t, smoothing - 1, dtype=grad.dtype))
            grad = grad.to(hidden.dtype)
            torch.mm(grad, weight, out=grad_hidden[start : start + rows])
            grad_weight.addmm_(grad.T.float(), h.float()) if grad.dtype != torch.float32 else grad_weight.addmm_(
                grad.T, h
            )
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Sum over M of -log softmax(hidden weight^T)[target].

    Args:
        hidden: [M, D].
        weight: [C, D].
        targets: int64 [M].
        smoothing: share of the target mass that is spread over all classes.

    Returns:
        A scalar in float32: the sum, so that the caller decides what to divide by.
    """
    with torch.autocast(hidden.device.type, enabled=False):  # the chunks decide their own precision
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight.to(hidden.dtype), targets, smoothing)
    return loss
