"""`CandidateSearch`: the items that a list may be made of, where a catalogue is too large to score one and all.

    candidates(u) = the M nearest items of the dense head and of the sequential scorer, by an index
                  + the M most probable items of co-occurrence
                  + what the beam retrieved

Every candidate then has its exact score from every scorer, so a list is the exact one of these items. What it can miss
is an item that is among the first M of no scorer by itself, and one that an index did not find
(`genrec.semtok.nearest`). Where a filter leaves few items, all of them are candidates.

A log-probability needs a sum over the whole catalogue. That of the nearest items is taken and the rest estimated from
S others, drawn once (Mussmann and Ermon, 2016):

    log sum_j exp z_j  ~  log( sum over the nearest of exp z_j + (N - M) / |S| sum over S of exp z_j )

It is one number a user and scorer, and moves an item in a list only beside items without counts, which have no
log-probability of co-occurrence.

Shapes: B users, N items, M proposed by a scorer, C candidates of a batch, S sampled items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.decoding.filters import ItemFilter
from genrec.ranking.batch import Batch
from genrec.ranking.component_scores import ComponentScores
from genrec.ranking.config import FusionWeights
from genrec.ranking.cooccurrence import Cooccurrence
from genrec.ranking.dense_head import DenseHead
from genrec.semtok.errors import InputError
from genrec.semtok.nearest import ItemIndex, is_few
from genrec.sequential.base import SequentialModel

PROPOSED = 500  # items that a scorer proposes at least
TOGETHER = 32  # users a batch: each is scored on the candidates of all
_SAMPLED = 1 << 15


class VectorScorer:
    """A scorer by inner products with item vectors [N, D]."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors.float()
        self.index = ItemIndex(self.vectors.cpu().numpy())
        n = len(vectors)
        self._sample = np.sort(np.random.default_rng(0).choice(n, size=min(n, _SAMPLED), replace=False))
        self._place = np.full(n, -1, dtype=np.int32)
        self._place[self._sample] = np.arange(len(self._sample))

    def ask(self, queries: Tensor, m: int) -> _Asked:
        """Ask the index for m rows of each query [B, D]."""
        return _Asked(self, queries, self.nearest(queries, m))

    def nearest(self, queries: Tensor, m: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Rows [B, M] of the index for queries [B, D]; -1 pads."""
        return self.index.search(queries.float().cpu().numpy(), m, allowed)

    def log_probability_of(self, queries: Tensor, rows: NDArray[np.int64], nearest: NDArray[np.int64]) -> Tensor:
        """Log-probabilities [B, C] of some rows, on the CPU; `nearest` is that of all items."""
        scores = queries.float() @ self._take(rows).T
        return (scores - self._log_sum(queries.float(), nearest)[:, None]).cpu()

    def _log_sum(self, queries: Tensor, nearest: NDArray[np.int64]) -> Tensor:
        """log sum_j exp z_j over all items, [B]."""
        found, place = torch.from_numpy(nearest >= 0), torch.from_numpy(self._place[nearest]).long()
        top = torch.einsum("bd,bmd->bm", queries, self._take(nearest.clip(min=0))).cpu()
        rest = (queries @ self._take(self._sample).T).cpu()
        again = torch.cat([rest, rest[:, :1]], dim=1)  # a column for those that were not sampled, cut off again
        place[~found | (place < 0)] = rest.shape[1]
        rest = again.scatter_(1, place, -torch.inf)[:, :-1]
        others = len(self.vectors) - found.sum(1)
        share = others.clamp(min=1) / (~rest.isneginf()).sum(1).clamp(min=1)
        of_top = top.masked_fill(~found, -torch.inf).logsumexp(1)
        return torch.logaddexp(of_top, rest.logsumexp(1) + share.log()).to(queries.device)

    def _take(self, rows: NDArray[np.int64]) -> Tensor:
        return self.vectors[torch.from_numpy(rows).to(self.vectors.device)]


@dataclass(frozen=True)
class _Asked:
    """A scorer, the queries [B, D] that it was asked, and the rows [B, M] nearest to them."""

    scorer: VectorScorer
    queries: Tensor
    nearest: NDArray[np.int64]

    def proposals(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        if allowed is None:
            return self.nearest
        return self.scorer.nearest(self.queries, self.nearest.shape[1], allowed)

    def log_probability_of(self, rows: NDArray[np.int64]) -> Tensor:
        return self.scorer.log_probability_of(self.queries, rows, self.nearest)


class CandidateSearch:
    """Candidates of a run's component scorers; each index is built when it is first asked.

    Args:
        head: the dense head.
        cooccurrence: co-occurrence counts, or None.
        sequential: the recommender of the run's aligner, or None.
    """

    def __init__(self, head: DenseHead, cooccurrence: Cooccurrence | None, sequential: SequentialModel | None) -> None:
        self.head, self.cooccurrence, self.recommender = head, cooccurrence, sequential

    @cached_property
    def dense(self) -> VectorScorer:
        """Of the dense head."""
        with torch.inference_mode():
            return VectorScorer(self.head.item_matrix())

    @cached_property
    def sequential(self) -> VectorScorer:
        """Of the aligner's recommender."""
        if self.recommender is None:
            raise InputError("this run has no recommender of a trained aligner; use --ranking.sequential_weight 0")
        return VectorScorer(self.recommender.frozen_vectors()[1])

    def build(self, weights: FusionWeights) -> None:
        """Build the indexes of the scorers that have a weight, before anybody asks."""
        for weight, scorer in ((weights.of_dense, "dense"), (weights.sequential, "sequential")):
            if weight:
                getattr(self, scorer)

    @torch.inference_mode()
    def find(
        self, batch: Batch, weights: FusionWeights, hidden: Tensor | None, retrieved: Tensor | None
    ) -> tuple[NDArray[np.int64], ComponentScores]:
        """The candidates of B users, and what scorers beside the codes say of them, as far as they have a weight.

        Args:
            batch: its filters are all of one shared set.
            hidden: [B, H], the LM's hidden states; None where the dense head has no weight.
            retrieved: rows [B, M] from the beam, -1 pads; None where the codes have no weight.

        Returns:
            Catalogue rows [C], ascending, and scores [B, C]; another's candidates are forbidden.
        """
        m = max(PROPOSED, 4 * batch.k) + max(len(each.denied) for each in batch.filters)
        dense = sequential = counts = None
        if hidden is not None:
            dense = self.dense.ask(self.head.query(hidden.float()), m)
        if weights.sequential:
            scorer, recommender = self.sequential, self.recommender
            assert recommender is not None
            sequential = scorer.ask(recommender.hidden(batch.histories), m)
        shared = batch.filters[0].shared
        allowed = None if shared is None else shared.mask
        if allowed is not None and reads_all(batch.filters[0]):
            rows = np.flatnonzero(allowed)
            own = np.ones((len(batch), len(rows)), dtype=np.bool_)
        else:
            proposed = [each.proposals(allowed) for each in (dense, sequential) if each is not None]
            proposed += [] if retrieved is None else [retrieved.cpu().numpy().astype(np.int64)]
            if weights.cooccurrence:
                proposed.append(self._counts().proposals(batch.recent, m, allowed))
            rows, own = _union(proposed)
        _remove_denied(own, rows, batch.filters)
        if weights.cooccurrence:
            counts = torch.from_numpy(self._counts().log_probability_of(batch.recent, rows))
        forbidden = torch.zeros(own.shape).masked_fill_(torch.from_numpy(~own), -torch.inf)
        of_dense, of_sequential = (
            None if each is None else each.log_probability_of(rows) for each in (dense, sequential)
        )
        parts = ComponentScores(forbidden, dense=of_dense, cooccurrence=counts, sequential=of_sequential)
        return rows, parts

    def _counts(self) -> Cooccurrence:
        if self.cooccurrence is None:
            raise InputError("this run has no co-occurrence counts; use --ranking.cooccurrence_weight 0")
        return self.cooccurrence


def reads_all(allowed: ItemFilter) -> bool:
    """Whether a filter's shared set is so small that all of it are candidates."""
    return allowed.shared is not None and is_few(allowed.shared.count, allowed.trie.n_items)


def _union(proposed: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """All proposed rows [C], ascending, and whose they are, [B, C], from rows [B, M] with -1 for none."""
    every = np.concatenate(proposed, axis=1)
    rows = np.unique(every[every >= 0])
    own = np.zeros((len(every), len(rows) + 1), dtype=np.bool_)  # the last column: of none
    own[np.arange(len(every))[:, None], np.where(every >= 0, np.searchsorted(rows, every), len(rows))] = True
    return rows, own[:, :-1]


def _remove_denied(own: NDArray[np.bool_], rows: NDArray[np.int64], filters: Sequence[ItemFilter]) -> None:
    """Take from each user the rows that its own list denies, in place."""
    for mine, each in zip(own, filters, strict=True):
        denied = each.trie.order[each.denied]
        place = np.searchsorted(rows, denied)
        there = place < len(rows)
        there[there] = rows[place[there]] == denied[there]
        mine[place[there]] = False
