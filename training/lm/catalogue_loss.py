"""`catalogue_loss`: the dense head's loss and that of the first codes by node vectors, which read the same scores.

With x_i = q . v_i of all items i, t the targets of items, seen in training, and of first codes:

    dense head     L_d = -sum over seen i of t(i) log( exp x_i / sum over seen j of exp x_j )
    first codes    L_n = -sum over c of t(c) log( sum over i below c of exp x_i / sum over j of exp x_j )

The gradient of L_n + w L_d by x is made in the same pass: one product with all items for the scores and two for the
gradients, where the two losses by themselves take seven. No more than a chunk of scores is ever held.

Shapes: M targets (m of a chunk), N items in the order of the trie, V first codes, D width, D' width of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from genrec.decoding.node_scores import sums_below
from genrec.training.loop.losses import SoftTargets, chunk_rows


@dataclass(frozen=True)
class CatalogueTargets:
    """What the scores of a batch are compared with.

    Attributes:
        positions: int64 [M], the items that came.
        codes: int64 [N], the first code of each item, ascending.
        first_codes: [M, V], weights of the first codes.
        unseen: int64, items that are no targets of the dense head and no classes of its softmax.
        dense_weight: w.
        soft: a teacher's probabilities of items, mixed into the dense head's targets; None: the items that came alone.
    """

    positions: Tensor
    codes: Tensor
    first_codes: Tensor
    unseen: Tensor
    dense_weight: float
    soft: SoftTargets | None

    @staticmethod
    def first(codes: Tensor, positions: Tensor, size: int, beyond: Tensor | None) -> Tensor:
        """`first_codes`, from the codes of the items that came and what a teacher adds to them."""
        own = one_hot(codes[positions], size).float()
        return own if beyond is None else own + beyond


class _CatalogueLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, vectors: Tensor, targets: CatalogueTargets) -> tuple[Tensor, Tensor, Tensor]:
        of_query, of_vectors = torch.empty_like(query), torch.zeros_like(vectors)
        nodes = dense = query.new_zeros(())
        most = chunk_rows(query.device, len(vectors))
        parts = torch.arange(len(query), device=query.device).chunk(-(-len(query) // most) or 1)
        scores = query.new_empty(3, len(vectors) * len(parts[0]))  # written again and again: new memory takes longer
        for part in parts:
            x, e, t = scores[:, : len(vectors) * len(part)].view(3, len(vectors), len(part))
            torch.mm(vectors, query[part].T, out=x)
            more_nodes, more_dense = _gradient(x, e, t, part, targets)
            nodes, dense = nodes + more_nodes, dense + more_dense
            of_query[part] = e.T @ vectors
            of_vectors.addmm_(e, query[part])
        ctx.save_for_backward(of_query, of_vectors)
        ctx.mark_non_differentiable(nodes, dense)
        return nodes + targets.dense_weight * dense, nodes, dense

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_query, of_vectors = ctx.saved_tensors
        return of_query * grads[0], of_vectors * grads[0], None


def _gradient(x: Tensor, e: Tensor, t: Tensor, part: Tensor, targets: CatalogueTargets) -> tuple[Tensor, Tensor]:
    """The gradient by scores x [N, m], into e, and the sums of both losses; x and t [N, m] are room to work in."""
    codes, wanted, w = targets.codes, targets.first_codes[part].T, targets.dense_weight
    place, unseen, soft = targets.positions[part][None], targets.unseen, targets.soft if w else None
    share, picked = x.new_zeros(len(part)), x.gather(0, place)[0]
    if soft is not None:
        share = soft.shares[part]
        torch.mm(soft.vectors, soft.states[part].T, out=t)
        t.sub_(t.amax(dim=0)).exp_().index_fill_(0, unseen, 0)
        t.div_(t.sum(dim=0))
        picked = (1 - share) * picked + share * torch.mul(t, x, out=e).sum(dim=0)
    sums, tops = sums_below(x, codes, len(wanted), e)
    there = sums > 0
    top = tops.amax(dim=0)
    shift = (tops - top).exp()  # from a code's own scale to the column's
    whole, total = (sums * shift).sum(dim=0), wanted.sum(dim=0)
    nodes = (total * (whole.log() + top)).sum() - (wanted * torch.where(there, sums.log() + tops, 0.0)).sum()
    factor = shift * (total / whole) - torch.where(there, wanted / sums, 0.0)
    if not w:
        e.mul_(torch.index_select(factor, 0, codes, out=x))
        return nodes, nodes.new_zeros(())
    e_unseen = e[unseen]
    seen = whole - (e_unseen * shift[codes[unseen]]).sum(dim=0)
    if bool((seen > 0.1 * whole).all()):
        log_seen = seen.log() + top
        e.mul_(torch.index_select(factor + shift * (w / seen), 0, codes, out=x))
        e[unseen] = e_unseen * factor[codes[unseen]]
    else:  # a difference without digits: most of the whole is of items that nobody has seen
        log_seen = x.index_fill_(0, unseen, -torch.inf).logsumexp(dim=0)
        e.mul_(factor[codes]).add_(x.sub_(log_seen).exp_(), alpha=w)
    if soft is not None:
        e.addcmul_(t, -w * share)
    e.scatter_add_(0, place, -w * (1 - share)[None])
    return nodes, (log_seen - picked).sum()


def catalogue_loss(query: Tensor, vectors: Tensor, targets: CatalogueTargets) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over M: of both losses with their gradient, L_n + w L_d, and of each without, L_n and L_d.

    Args:
        query: [M, D].
        vectors: [N, D], of items in the order of the trie.
    """
    if targets.soft is not None:
        targets = replace(targets, soft=SoftTargets(*(each.float() for each in targets.soft)))
    with torch.autocast(query.device.type, enabled=False):
        losses: tuple[Tensor, Tensor, Tensor] = _CatalogueLoss.apply(query.float(), vectors.float(), targets)
    return losses
