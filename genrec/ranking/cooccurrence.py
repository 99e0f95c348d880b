"""What people took next and took together, counted: a distribution over the catalogue without a gradient.

    p(j | h)      = 1/2 p_next(j | l) + 1/2 p_near(j | h)            l the last item of h
    p_next(j | l) = (n(l, j) + b p(j)) / (n(l) + b)                  first-order Markov, n counts of training
    p_near(j | h) = (1 - a) s(j | h) / sum_i s(i | h) + a p(j)       s the scores of item-kNN
    p(j)          = (n(j) + c) / sum_i (n(i) + c)

A network generalises and forgets rare pairs; counts remember them and generalise to nothing. Their errors differ, so a
product of both beats either (on Beauty and Scientific by a fifth of the recall; see docs/results/parts.md).

Where a catalogue is large, the items that the counts say anything of are few: `proposals` finds the most probable, and
`log_probability_of` scores some items, as `log_probability` scores all.

Shapes: B histories, N items, C of them, M proposed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy import sparse
from scipy.special import log_softmax

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.evaluation.baselines import ItemKnn, Markov, Popularity
from genrec.evaluation.metrics import ndcg, rank_of_target
from genrec.evaluation.tables import rank
from genrec.semtok.arrays import read_arrays, sparse_matrix, sparse_spec
from genrec.semtok.errors import InputError
from genrec.semtok.folders import write_atomic

COOCCURRENCE_WEIGHTS = (0.0, 0.2, 0.4, 0.6)  # of a product, tried on validation
KNN_BACK_OFF, NEXT_BACK_OFF, FLOOR = 0.1, 1.0, 0.1  # a, b and c; chosen on validation cases of two Amazon sets
_DECAY = 0.7


@dataclass(frozen=True)
class Cooccurrence:
    """Counts of a training set.

    Attributes:
        transitions: sparse float32 [N, N], how often (column) came right after (row).
        similarity: sparse float32 [N, N] of item-kNN.
        counts: float32 [N], how often each item was taken.
    """

    transitions: sparse.csr_array
    similarity: sparse.csr_array
    counts: NDArray[np.float32]

    @classmethod
    def fit(cls, train: Sequences, n_items: int) -> Cooccurrence:
        """Count training sequences of catalogue rows."""
        counts = np.bincount(train.values, minlength=n_items).astype(np.float32)
        transitions = Markov.fit(train, n_items).transitions
        transitions.sum_duplicates()
        similarity = ItemKnn.fit(train, n_items, decay=_DECAY).similarity
        similarity.sort_indices()
        return cls(transitions, similarity, counts)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Items that somebody has taken, bool [N]: of the others there is nothing to count."""
        return self.counts > 0

    def extended(self, n_items: int) -> Cooccurrence:
        """The same counts for a catalogue that has grown to `n_items` by items that nobody has taken."""
        more = n_items - len(self.counts)
        if more < 0:
            raise InputError(f"co-occurrence counts of {len(self.counts)} items for a catalogue of {n_items}")
        transitions, similarity = self.transitions.copy(), self.similarity.copy()
        for matrix in (transitions, similarity):
            matrix.resize(n_items, n_items)
        return Cooccurrence(transitions, similarity, np.pad(self.counts, (0, more)))

    def log_probability(self, histories: Sequences) -> NDArray[np.float32]:
        """log p(j | h), float32 [B, N]; an empty history is answered by popularity."""
        n = len(self.counts)
        prior = self._prior
        has_last = np.flatnonzero(histories.lengths)
        last = histories.values[histories.offsets[1:][has_last] - 1]
        after = np.zeros((len(histories), n), dtype=np.float32)
        after[has_last] = self.transitions[last].toarray()
        after_total = after.sum(axis=1, keepdims=True)
        after = (after + NEXT_BACK_OFF * prior) / (after_total + NEXT_BACK_OFF)
        # The back-off inside ItemKnn is for ranking; here the prior takes its place.
        near = ItemKnn(self.similarity, Popularity(np.zeros(n, dtype=np.float32)), _DECAY).score(histories)
        total = near.sum(axis=1, keepdims=True)
        known = total > 0
        back_off = np.where(known, KNN_BACK_OFF, 1.0)
        near = (1 - back_off) * near / np.where(known, total, 1.0) + back_off * prior
        return np.log(0.5 * (after + near)).astype(np.float32)

    def proposals(self, histories: Sequences, m: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Rows [B, 2 M] that hold the M most probable items of each history; -1 pads.

        Args:
            allowed: bool [N]; no other row is proposed.
        """
        counted, share = self._counted(histories)
        popular = self._by_popularity if allowed is None else self._by_popularity[allowed[self._by_popularity]]
        rows = np.full((len(histories), 2 * m), -1, dtype=np.int64)
        rows[:, m : m + len(popular[:m])] = popular[:m]  # of the items without counts in a row, the best are these
        for user in range(len(histories)):
            part = slice(counted.indptr[user], counted.indptr[user + 1])
            items, value = counted.indices[part], counted.data[part]
            if allowed is not None:
                kept = allowed[items]
                items, value = items[kept], value[kept]
            best = items[np.lexsort((items, -(value + share[user] * self._prior[items])))[:m]]
            rows[user, : len(best)] = best
        return rows

    def log_probability_of(self, histories: Sequences, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """log p(j | h) of some items, float32 [B, C], NaN where an item has no counts."""
        counted, share = self._counted(histories)
        found: NDArray[np.float32] = counted[:, rows].toarray() + share[:, None] * self._prior[rows]
        result = np.log(found).astype(np.float32)
        result[:, self.counts[rows] == 0] = np.nan
        return result

    def _counted(self, histories: Sequences) -> tuple[sparse.csr_array, NDArray[np.float32]]:
        """p(j | h) as a sparse [B, N] and the share [B] of p(j) that is to be added."""
        n = len(self.counts)
        has_last = histories.lengths > 0
        last = np.zeros(len(histories), dtype=np.int64)
        last[has_last] = histories.values[histories.offsets[1:][has_last] - 1]
        after = self.transitions[last].multiply(has_last[:, None].astype(np.float32)).tocsr()
        near = ItemKnn(self.similarity, Popularity(np.zeros(n, dtype=np.float32)), _DECAY).similar(histories)
        after_total, total = after.sum(axis=1) + NEXT_BACK_OFF, near.sum(axis=1)
        back_off = np.where(total > 0, KNN_BACK_OFF, 1.0)
        of_near = 0.5 * (1 - back_off) / np.where(total > 0, total, 1.0)
        share = 0.5 * (NEXT_BACK_OFF / after_total + back_off)
        both = after.multiply((0.5 / after_total)[:, None]) + near.multiply(of_near[:, None])
        return sparse.csr_array(both), share.astype(np.float32)

    @cached_property
    def _prior(self) -> NDArray[Any]:
        """p(j), float32 [N]."""
        prior: NDArray[Any] = (self.counts + FLOOR) / (self.counts.sum() + FLOOR * len(self.counts))
        return prior

    @cached_property
    def _by_popularity(self) -> NDArray[np.int64]:
        """All rows, the most popular first."""
        return np.argsort(-self.counts, kind="stable")

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        arrays = {"counts": self.counts}
        for name, matrix in (("transitions", self.transitions), ("similarity", self.similarity)):
            arrays[f"{name}_data"] = matrix.data.astype(np.float32)
            arrays[f"{name}_columns"] = matrix.indices.astype(np.int32)
            arrays[f"{name}_starts"] = matrix.indptr.astype(np.int64)
        write_atomic(path, save(arrays))

    @classmethod
    def load(cls, path: Path) -> Cooccurrence:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, truncated or foreign.
        """
        spec = {"counts": ("float32", ("N",)), **sparse_spec("transitions"), **sparse_spec("similarity")}
        arrays = read_arrays(path, spec, "saved co-occurrence counts")
        shape = (len(arrays["counts"]), len(arrays["counts"]))
        if any((array < 0).any() for name, array in arrays.items() if name.endswith(("counts", "data"))):
            raise InputError(f"{path}: not saved co-occurrence counts (numbers below 0)")
        transitions, similarity = (sparse_matrix(path, name, arrays, shape) for name in ("transitions", "similarity"))
        return cls(transitions, similarity, arrays["counts"])


Score = Callable[[Sequences], NDArray[np.float32]]


def mixture(score: Score, cooccurrence: Cooccurrence, weight: float) -> Score:
    """A sequential model with logits [B, N], fused with co-occurrence as our own model is."""

    def mixed(histories: Sequences) -> NDArray[np.float32]:
        own = log_softmax(score(histories), axis=1)
        both: NDArray[np.float32] = (1 - weight) * own + weight * cooccurrence.log_probability(histories)
        return both.astype(np.float32)

    return mixed


def best_weight(
    score: Score, cooccurrence: Cooccurrence, valid: Cases, exclude_seen: bool, n_cases: int = 2000
) -> float:
    """The weight of co-occurrence in `mixture` that wins by NDCG@10 on the first `n_cases` validation cases."""
    histories = valid.histories.take(np.arange(min(n_cases, len(valid))))
    targets = valid.targets[: len(histories)]

    def value(weight: float) -> float:
        lists = rank(mixture(score, cooccurrence, weight), histories, exclude_seen=exclude_seen, k=10)
        return float(ndcg(rank_of_target(lists, targets), 10).mean())

    return max(COOCCURRENCE_WEIGHTS, key=lambda weight: (value(weight), -weight))
