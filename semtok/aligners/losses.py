"""The published losses that pull two views of the same items together, one function each.

Every function returns a scalar, in the precision of its inputs and differentiable in them. Both views are [M, D]: M
items of a batch, row by row the same, and D the width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_STD_FLOOR = 1e-5


def item_contrast(anchors: Tensor, others: Tensor, items: Tensor, temperature: float) -> Tensor:
    """Item-level alignment: InfoNCE from one view to the other, repeated items left out (FAERec, arXiv 2604.03688).

        L = -1/M sum_i log( exp(cos(a_i, o_i) / tau) / sum_{j = i or item_j != item_i} exp(cos(a_i, o_j) / tau) )

    Args:
        items: int64 [M], which item a row is: another row of the same item is no negative.
        temperature: tau.
    """
    cosines = functional.normalize(anchors, dim=-1) @ functional.normalize(others, dim=-1).T
    return _contrast(cosines / temperature, items)


def symmetric_contrast(first: Tensor, second: Tensor, items: Tensor, temperature: float) -> Tensor:
    """InfoNCE in both directions: the mean of `item_contrast(x, y)` and `item_contrast(y, x)`.

    The loss of CLIP (arXiv 2103.00020) and of RecGOAT's cross-modal contrast (arXiv 2602.00682), to be minimised as it
    stands: its released code minimises 1 - InfoNCE, which drives the views apart. Parameters as in `item_contrast`.
    """
    cosines = functional.normalize(first, dim=-1) @ functional.normalize(second, dim=-1).T
    logits = cosines / temperature
    return (_contrast(logits, items) + _contrast(logits.T, items)) / 2


def _contrast(logits: Tensor, items: Tensor) -> Tensor:
    """Cross-entropy of the diagonal of [M, M], other rows of the same item masked."""
    repeated = (items[:, None] == items) & ~torch.eye(len(items), dtype=torch.bool, device=items.device)
    return functional.cross_entropy(logits.masked_fill(repeated, -torch.inf), torch.arange(len(items)).to(items))


def soft_target_contrast(
    first: Tensor, second: Tensor, temperature: float | Tensor, target_scale: float | Tensor | None = None
) -> Tensor:
    """Contrast with soft targets: items that are alike share the target's mass (LLMEmb, arXiv 2409.19925, both stages).

        S = X Y^T / tau,   P = softmax_rows( (X X^T + Y Y^T) / 2 * s ),
        L = 1/(2M) sum_i [ CE(P_i, softmax(S_i)) + CE((P^T)_i, softmax((S^T)_i)) ]

    Lengths count, as published: the views are not normalised here.

    Args:
        temperature: tau, a number or a learnable scalar.
        target_scale: s; None is tau itself, as published, so that a higher temperature flattens the prediction and
            sharpens the target. For unit vectors 1 / tau treats both alike.
    """
    scale = temperature if target_scale is None else target_scale
    logits = first @ second.T / temperature
    targets = functional.softmax((first @ first.T + second @ second.T) / 2 * scale, dim=1)
    rows = -(targets * functional.log_softmax(logits, dim=1)).sum()
    columns = -(targets.T * functional.log_softmax(logits.T, dim=1)).sum()
    return (rows + columns) / (2 * len(first))


def feature_correlation(first: Tensor, second: Tensor, off_diagonal: float = 0.005) -> Tensor:
    """Feature-level alignment: the cross-correlation of the two views' dimensions is pulled to the identity
    (Barlow Twins, arXiv 2103.03230, eq. 1-2, as FAERec takes it).

        c = Z_x^T Z_y / M,   L = sum_k (1 - c_kk)^2 + w sum_{k != l} c_kl^2

    with w the `off_diagonal` and Z the columns standardised over the rows (standard deviation + 1e-5). Fewer than two
    rows have no correlation and cost 0.
    """
    if len(first) < 2:
        return first.new_zeros(())
    correlation = _standardised(first).T @ _standardised(second) / len(first)
    diagonal = correlation.diagonal()
    rest = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * rest


def feature_correlation_by_popularity(first: Tensor, second: Tensor, counts: Tensor) -> Tensor:
    """`feature_correlation` of the more popular and of the less popular half of the rows, summed (FAERec).

    Taken apart, the many events of popular items cannot drown the correlations of rare ones.

    Args:
        counts: [M], interactions of each item; rows above the median are the popular half.
    """
    popular = counts > counts.median()
    return feature_correlation(first[popular], second[popular]) + feature_correlation(first[~popular], second[~popular])


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(dim=0)) / (values.std(dim=0, correction=0) + _STD_FLOOR)


def collaborative_contrast(quantised: Tensor, known: Tensor) -> Tensor:
    """LETTER's collaborative regularisation of a quantiser (Wang et al. 2024, arXiv 2405.07314): an item's quantised
    vector must tell its collaborative vector from the others of the batch.

        L = -1/M sum_i log( exp(<q_i, c_i>) / sum_j exp(<q_i, c_j>) )

    by plain inner products, with no temperature.

    Args:
        quantised: q [M, D], sums of code vectors.
        known: c [M, D], frozen collaborative vectors.
    """
    return functional.cross_entropy(quantised @ known.T, torch.arange(len(known), device=known.device))


def code_diversity(codebook: Tensor, codes: Tensor, mates: Tensor) -> Tensor:
    """LETTER's diversity regularisation: a code is pulled to another of its cluster and pushed from all others, so that
    codes form even groups instead of one (Wang et al. 2024, arXiv 2405.07314).

        L = -1/M sum_i log( exp(<e_i, e_mate(i)>) / sum_{j != i} exp(<e_i, e_j>) )

    Args:
        codebook: [V, D].
        codes: int64 [M], the items' codes.
        mates: int64 [M], for each another code of its cluster.
    """
    logits = codebook[codes] @ codebook.T
    own = functional.one_hot(codes, len(codebook)).bool()
    return functional.cross_entropy(logits.masked_fill(own, -torch.inf), mates)
