"""Recommenders without a gradient, for the same table as ours: popularity, Markov, item-kNN, content, chance.

Each is fitted with `fit(train, n_items)` and answers `score(histories)` with float32 [B, N], higher is better;
`evaluation.tables.rank` asks in chunks. None of them leaves out the items of the history: `top_k(exclude=...)` does.

Legend: B histories, N items, U training sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from genrec.data.sequences import Sequences
from genrec.data.user_items import user_item_matrix

Scores = NDArray[np.float32]

_BLOCK = 1024  # items whose neighbours are found at once: the whole product need not fit into memory


@dataclass(frozen=True)
class Popularity:
    """Ranks by the number of training events, whoever asks."""

    share: Scores  # float32 [N], events of an item divided by those of the most popular one plus one, so in [0, 1)

    @classmethod
    def fit(cls, train: Sequences, n_items: int) -> Self:
        counts = np.bincount(train.values, minlength=n_items)
        return cls((counts / (counts.max(initial=0) + 1)).astype(np.float32))

    def score(self, histories: Sequences) -> Scores:
        return np.tile(self.share, (len(histories), 1))


@dataclass(frozen=True)
class Markov:
    """First-order Markov table: how often an item came right after the last one; ties and the rest by popularity."""

    transitions: Any  # sparse float32 [N, N], training counts from (row) to (column)
    popularity: Popularity  # the back-off

    @classmethod
    def fit(cls, train: Sequences, n_items: int) -> Self:
        pairs = train.pairs()
        ones = np.ones(len(pairs), dtype=np.float32)
        table = sparse.csr_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n_items, n_items))
        return cls(table, Popularity.fit(train, n_items))

    def score(self, histories: Sequences) -> Scores:
        scores = self.popularity.score(histories)  # below 1, so that it decides only between equal counts
        has_last = np.flatnonzero(histories.lengths)
        last = histories.values[histories.offsets[1:][has_last] - 1]
        scores[has_last] += self.transitions[last].toarray()
        return scores


@dataclass(frozen=True)
class ItemKnn:
    """Item-based nearest neighbours (Sarwar et al., 2001); the later items of a history weigh more.

    With p(i) the number of sequences that have item i and p(i, j) those that have both:

        similarity(i, j) = p(i, j) / (sqrt(p(i) p(j)) + shrinkage)
        score(j | h)     = sum over items i of h, aged 0 for the last, of decay^age similarity(i, j)

    Popularity decides where nothing is similar. The defaults were chosen on validation cases of two Amazon sets and the
    sample shop.
    """

    similarity: Any  # sparse float32 [N, N], the `neighbours` largest of each row, diagonal empty
    popularity: Popularity  # the back-off
    decay: float  # in (0, 1]

    @classmethod
    def fit(
        cls, train: Sequences, n_items: int, *, shrinkage: float = 50.0, neighbours: int = 200, decay: float = 0.7
    ) -> Self:
        has = user_item_matrix(train, n_items)
        norm = np.sqrt(np.asarray(has.sum(axis=0)))
        by_item, rows = has.T.tocsr(), []
        for start in range(0, n_items, _BLOCK):
            common = (by_item[start : start + _BLOCK] @ has).tocoo()
            first = common.row + start
            off = first != common.col
            value = common.data[off] / (norm[first[off]] * norm[common.col[off]] + shrinkage)
            rows.append(_largest(first[off], common.col[off], value.astype(np.float32), neighbours))
        first, second, value = (np.concatenate(part) for part in zip(*rows, strict=True))
        similarity = sparse.csr_array((value, (first, second)), shape=(n_items, n_items))
        return cls(similarity, Popularity.fit(train, n_items), decay)

    def score(self, histories: Sequences) -> Scores:
        scores: Scores = self.similar(histories).toarray()
        return scores + np.float32(1e-6) * self.popularity.score(histories)

    def similar(self, histories: Sequences) -> Any:
        """The sum without the back-off, sparse float32 [B, N]."""
        return _weighed(histories, self.similarity.shape[0], self.decay) @ self.similarity


@dataclass(frozen=True)
class Random:
    """Ranks by chance: the floor, also for cold-start items."""

    n_items: int  # N
    seed: int = 0  # of the draw, one a batch of histories

    def score(self, histories: Sequences) -> Scores:
        rng = np.random.default_rng((self.seed, len(histories), int(histories.values.sum(dtype=np.int64))))
        return rng.random((len(histories), self.n_items), dtype=np.float32)


@dataclass(frozen=True)
class ContentKnn:
    """Ranks by the cosine of an item's text with the recent history's, so that cold-start items can be retrieved."""

    units: Scores  # float32 [N, D], text vectors of unit length
    decay: float = 0.7  # weight of an event relative to the one after it

    def score(self, histories: Sequences) -> Scores:
        return (_weighed(histories, len(self.units), self.decay) @ self.units) @ self.units.T


def _weighed(histories: Sequences, n_items: int, decay: float) -> sparse.csr_array:
    """The items of histories, sparse float32 [B, N], each worth `decay` to its age, 0 for the last."""
    owners = histories.owners
    age = histories.offsets[1:][owners] - 1 - np.arange(len(owners))
    weight = (decay**age).astype(np.float32)
    return sparse.csr_array((weight, (owners, histories.values)), shape=(len(histories), n_items))


def _largest(
    row: NDArray[np.int64], column: NDArray[np.int64], value: Scores, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Scores]:
    """The `count` largest values of each row of a sparse matrix in coordinates; of equal ones the lower column."""
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < count
    return row[kept], column[kept], value[kept]


BASELINES: dict[str, type[Popularity] | type[Markov] | type[ItemKnn]] = {
    "Popularity": Popularity,
    "Markov": Markov,
    "ItemKnn": ItemKnn,
}
