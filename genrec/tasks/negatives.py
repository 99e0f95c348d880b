"""`Negatives`: items that a user has not interacted with, but that look as likely as the positive.

A candidate drawn at random is told apart by popularity alone, or by its first code. These are not: one kind is about as
popular as the positive, the other shares its first code (Semantic Convergence, Li et al. 2024, as we read it).
Only items that training histories hold are drawn: to say "no" to every unseen item would teach never to recommend one.

Shapes: N items, L levels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec.data.sequences import Sequences

Rows = NDArray[np.int32]
_ALIKE = 1.25  # popularities within this factor count as equal
_NEAREST = 8  # where few are: as many items on each side of the positive in the order of popularity
_TRIES = 8  # blind draws before the user's own items are looked up among all candidates


class Negatives:
    """Draws negatives.

    Args:
        histories: training histories.
        codes: int32 [N, L].
    """

    def __init__(self, histories: Sequences, codes: Rows) -> None:
        self.counts = np.bincount(histories.values, minlength=len(codes))
        order = np.argsort(self.counts, kind="stable")
        self._by_count = order[self.counts[order] > 0].astype(np.int32)
        self._sorted_counts = self.counts[self._by_count]
        self._place = np.full(len(codes), -1, dtype=np.int64)
        self._place[self._by_count] = np.arange(len(self._by_count))
        self._first = codes[:, 0]
        by_first = self._by_count[np.argsort(self._first[self._by_count], kind="stable")]
        self._bounds = np.searchsorted(self._first[by_first], np.arange(int(codes[:, 0].max()) + 2))
        self._by_first = by_first

    def can_serve(self, history: Rows) -> bool:
        """Whether there is an item left that this user has not interacted with."""
        return len(np.unique(history)) < len(self._by_count)

    def like(self, positive: int, history: Rows, rng: np.random.Generator) -> int:
        """A negative for `positive` that is nowhere in `history` (the whole of it), of either kind with chance 1/2."""
        return (self.as_popular if rng.random() < 0.5 else self.same_prefix)(positive, history, rng)

    def as_popular(self, positive: int, history: Rows, rng: np.random.Generator) -> int:
        """A negative about as popular as `positive`."""
        place, count = int(self._place[positive]), self.counts[positive]
        low, high = np.searchsorted(self._sorted_counts, [count / _ALIKE, count * _ALIKE + 1e-9])
        near = self._by_count[max(0, min(low, place - _NEAREST)) : max(high, place + _NEAREST + 1)]
        return self._one_of(near, history, rng)

    def same_prefix(self, positive: int, history: Rows, rng: np.random.Generator) -> int:
        """A negative with the first code of `positive`; else one of like popularity."""
        first = self._first[positive]
        alike = self._by_first[self._bounds[first] : self._bounds[first + 1]]
        if np.isin(alike, history).all():
            return self.as_popular(positive, history, rng)
        return self._one_of(alike, history, rng)

    def _one_of(self, candidates: Rows, history: Rows, rng: np.random.Generator) -> int:
        for _ in range(_TRIES):
            drawn = candidates[rng.integers(len(candidates))]
            if drawn not in history:
                return int(drawn)
        free = candidates[~np.isin(candidates, history)]
        if len(free) == 0:
            free = self._by_count[~np.isin(self._by_count, history)]
        return int(free[rng.integers(len(free))])
