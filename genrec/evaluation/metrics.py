"""Ranking metrics on catalogue rows, and intervals for them.

A metric is first a number for each case and then their mean, so that one bootstrap serves all of them:

    ranks = rank_of_target(rows, targets)
    interval(ndcg(ranks, 10))           # Interval(value=..., low=..., high=..., n=...)

A case has one relevant item, its target: recall@k is 1 where the target's rank is at most k, NDCG@k is
1 / log2(1 + rank) there, MRR@k 1 / rank, and all are 0 elsewhere.

Legend: B cases, K ranks, N items of the catalogue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrec.data.sequences import Sequences

Values = NDArray[np.float64]

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean over `n` cases with its 95% bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    def signed(self) -> str:
        """A difference as it stands in tables: `+0.0150 [+0.0113, +0.0190]`."""
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def top_k(
    scores: NDArray[np.float32], k: int, exclude: Sequences | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best items of every case, best first; of equal scores the lower row comes first.

    Args:
        scores: [B, N]; -inf is never returned, NaN is refused.
        exclude: items that are not to be returned, one sequence a case.

    Returns:
        Rows int32 [B, k] with -1, and their scores float32 [B, k] with -inf, where a case has fewer than k items.
    """
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    cases, items = scores.shape
    if exclude is not None:
        scores = scores.copy()
        scores[exclude.owners, exclude.values] = -np.inf
    kept = min(k, items)
    threshold = np.partition(scores, items - kept, axis=1)[:, items - kept, None]
    above, level = scores > threshold, scores == threshold
    room = kept - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (np.cumsum(level, axis=1, dtype=np.int32) <= room))
    found = np.nonzero(chosen)[1].reshape(cases, kept)  # ascending, so that the stable sort leaves ties in row order
    best = np.take_along_axis(scores, found, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    rows, values = np.full((cases, k), -1, dtype=np.int32), np.full((cases, k), -np.inf, dtype=np.float32)
    rows[:, :kept], values[:, :kept] = np.take_along_axis(found, order, axis=1), np.take_along_axis(best, order, axis=1)
    rows[np.isneginf(values)] = -1
    return rows, values


def rank_of_target(rows: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Rank of the target in each list [B, K], from 1; 0 where the list does not have it. int64 [B].

    >>> rank_of_target(np.array([[7, 5, 2], [1, 3, 4]]), np.array([5, 6])).tolist()
    [2, 0]
    """
    hit = rows == targets[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def recall(ranks: NDArray[np.int64], k: int) -> Values:
    """1 where the target is among the first k, else 0; float64 [B].

    >>> recall(np.array([2, 0, 11]), 10).tolist()
    [1.0, 0.0, 0.0]
    """
    return _inside(ranks, k).astype(np.float64)


def ndcg(ranks: NDArray[np.int64], k: int) -> Values:
    """1 / log2(1 + rank) where the target is among the first k, else 0; float64 [B].

    >>> ndcg(np.array([1, 3, 11]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.where(_inside(ranks, k), 1 / np.log2(1 + np.maximum(ranks, 1)), 0.0)


def mrr(ranks: NDArray[np.int64], k: int) -> Values:
    """1 / rank where the target is among the first k, else 0; float64 [B]."""
    return np.where(_inside(ranks, k), 1 / np.maximum(ranks, 1), 0.0)


def _inside(ranks: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    return (ranks >= 1) & (ranks <= k)


def coverage(rows: NDArray[np.int32], items: int, k: int) -> float:
    """Share of the catalogue that stands among the first k of at least one list."""
    return int(np.count_nonzero(_times_recommended(rows, items, k))) / items


def gini(rows: NDArray[np.int32], items: int, k: int) -> float:
    """Gini coefficient of how often each item of the catalogue stands among the first k.

    0 when all are recommended equally often, 1 - 1/N when one is alone; 0 where no list has an item.
    """
    times = np.sort(_times_recommended(rows, items, k))
    total = int(times.sum())
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, items + 1) - items - 1) @ times) / (items * total)


def _times_recommended(rows: NDArray[np.int32], items: int, k: int) -> NDArray[np.int64]:
    first = rows[:, :k]
    return np.bincount(first[first >= 0], minlength=items)


def interval(values: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of the cases' values [B] with its 95% percentile bootstrap interval (Efron, 1979).

    Cases are resampled independently of each other, also where a user has several. A resample of B cases only matters
    by how often it has each distinct value, and these counts are multinomial: metrics of a rank have few distinct
    values, so the bootstrap costs no more than those.

    Raises:
        ValueError: no cases.
    """
    if len(values) == 0:
        raise ValueError("no cases to take the mean of")
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
    low, high = np.percentile(drawn @ distinct / len(values), [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high), len(values))


def paired_interval(ours: Values, theirs: Values) -> Interval:
    """Mean of ours - theirs over the same cases [B], with its bootstrap interval: cases are resampled as pairs."""
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{len(ours)} and {len(theirs)} cases: a paired interval needs the same cases in the same order"
        )
    return interval(ours - theirs)
