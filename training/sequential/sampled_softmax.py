"""Softmax over a sample of the classes, for catalogues that a full softmax is too dear for.

Every class j is in the sample with probability pi_j, by its own coin (Poisson sampling), and

    loss = -s_y + log( exp(s_y) + sum over sampled j other than y of exp(s_j - log pi_j) )

so that the sum in the logarithm has the full softmax's as its mean: each sampled class stands for 1 / pi_j of its kind
(the logQ correction; the target itself is no draw and takes none). With pi_j = 1 for all j it is the full softmax.

Shapes: M targets, D width, C classes, K sampled classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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


def sampled_softmax(hidden: Tensor, vectors: Tensor, targets: Tensor, probability: Tensor) -> Tensor:
    """Sum over M of the loss above; one sample serves all targets.

    Args:
        hidden: [M, D].
        vectors: [C, D].
        targets: int64 [M].
        probability: [C], see `inclusion`; coins come from torch's generator.
    """
    drawn = torch.nonzero(torch.rand(len(probability), device=probability.device) < probability).squeeze(1)
    own = (hidden * vectors[targets]).sum(dim=1, keepdim=True)
    others = hidden @ vectors[drawn].T - torch.log(probability[drawn])
    others = others.masked_fill(drawn == targets[:, None], -torch.inf)
    loss: Tensor = (torch.cat([own, others], dim=1).logsumexp(dim=1) - own.squeeze(1)).sum()
    return loss
