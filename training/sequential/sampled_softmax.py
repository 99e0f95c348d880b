"""Softmax over a sample of the classes, for catalogues that a full softmax is too dear for.

Every class j is in the sample with probability pi_j, by its own coin (Poisson sampling), and

    loss = -s_y + log( exp(s_y) + sum over sampled j other than y of exp(s_j - log pi_j) )

so that the sum in the logarithm has the full softmax's as its mean: each sampled class stands for 1 / pi_j of its kind
(the logQ correction; the target itself is no draw and takes none). With pi_j = 1 for all j it is the full softmax.

Shapes: M targets, D width, C classes, K sampled classes, R rows of vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LOGITS = 2 << 20  # of a chunk: 8 MiB, near the caches


class Drawn(NamedTuple):
    """A sample of the classes.

    Attributes:
        rows: int64 [K], where their vectors stand.
        log_probability: [K], log pi of each.
    """

    rows: Tensor
    log_probability: Tensor


def inclusion(counts: NDArray[np.int64], negatives: int, power: float = 0.75) -> Tensor:
    """Probabilities pi float32 [C] that sum to `negatives`: in proportion to (count + 1)^power, but none above 1.

    Args:
        counts: [C], how often each class is a target.
        negatives: expected size of the sample; C or more takes all classes.
        power: 0 draws all classes alike, 1 by their frequency; 0.75 is word2vec's (Mikolov et al., 2013).
    """
    weight = (counts + 1.0) ** power
    if negatives >= len(counts):
        return torch.ones(len(counts))
    certain = np.zeros(len(counts), dtype=np.bool_)
    while True:
        rest = negatives - certain.sum()
        probability = np.where(certain, 1.0, weight * rest / weight[~certain].sum())
        if (probability <= 1).all():
            return torch.from_numpy(probability.astype(np.float32))
        certain |= probability >= 1


def draw(probability: Tensor) -> Drawn:
    """A sample of the classes by their probabilities [C], see `inclusion`; coins come from torch's generator."""
    rows = torch.nonzero(torch.rand(len(probability), device=probability.device) < probability).squeeze(1)
    return Drawn(rows, probability[rows].log())


def sampled_softmax(hidden: Tensor, vectors: Tensor, targets: Tensor, drawn: Drawn) -> Tensor:
    """Sum over M of the loss above; one sample serves all targets.

    Args:
        hidden: [M, D].
        vectors: [R, D], of all classes or of those that the batch needs.
        targets: int64 [M], rows of `vectors`.
        drawn: the sample, of rows of `vectors`.
    """
    place = torch.full((len(vectors),), -1, device=targets.device)
    place[drawn.rows] = torch.arange(len(drawn.rows), device=targets.device)
    if hidden.dtype in (torch.bfloat16, torch.float16):  # with a sample's sums half precision is too coarse
        hidden = hidden.float()
    vectors, log_probability = vectors.to(hidden.dtype), drawn.log_probability.to(hidden.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _SampledCrossEntropy.apply(
            hidden, vectors[targets], vectors[drawn.rows], log_probability, place[targets]
        )
    return loss


class _SampledCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass over chunks of rows, as `linear_cross_entropy` does, so that M times K logits are
    never held."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, own: Tensor, others: Tensor, log_probability: Tensor, place: Tensor
    ) -> Tensor:
        """Sum of the losses of hidden [M, D] with their targets' vectors own [M, D] and those of the sample, others
        [K, D]; `place` [M] says where a target stands in the sample, -1 where it does not."""
        chunk = max(16, _LOGITS // max(1, len(others)))
        grad_hidden, grad_own, grad_others = (torch.empty_like(x) for x in (hidden, own, others))
        grad_others.zero_()
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            h, at = hidden[rows], place[rows]
            score = (h * own[rows]).sum(dim=1, keepdim=True)
            logits = torch.addmm(-log_probability, h, others.T)
            drawn_itself = (at >= 0).nonzero().squeeze(1)
            logits[drawn_itself, at[drawn_itself]] = -torch.inf
            highest = torch.maximum(logits.amax(dim=1, keepdim=True), score) if len(others) else score
            e, e_own = logits.sub_(highest).exp_(), (score - highest).exp_()
            z = e.sum(dim=1, keepdim=True) + e_own
            total += (z.log() + highest - score).sum()
            missing = e_own / z - 1
            grad_hidden[rows] = (e @ others) / z + missing * own[rows]
            grad_own[rows] = missing * h
            grad_others.addmm_(e.T, h / z)
        ctx.save_for_backward(grad_hidden, grad_own, grad_others)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_own, grad_others = ctx.saved_tensors
        return grad_hidden * grads[0], grad_own * grads[0], grad_others * grads[0], None, None


def places_in(used: Tensor, rows: Tensor) -> Tensor:
    """Where rows stand among those in use, int64 [R] in order; negative ones stay what they are."""
    return torch.where(rows >= 0, torch.searchsorted(used, rows.contiguous()), rows)
