"""`SimilarItems`: the items nearest to one of them, read one and all, or by an index where there are many.

Shapes: N items, W width.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from genrec.decoding.filters import ItemFilter
from genrec.ranking.candidates import reads_all
from genrec.semtok.nearest import ItemIndex

Best: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Catalogue rows and their scores, best first."""
_LEAST = 100  # items that an index is asked for; it knows them in half precision


class SimilarItems:
    """Nearest items by cosine.

    Args:
        vectors: float32 [N, W], of unit length.
        approximate: ask an index, which is built here, and take the cosines of what it finds.
    """

    def __init__(self, vectors: NDArray[np.float32], *, approximate: bool) -> None:
        self.vectors, self.index = vectors, ItemIndex(vectors) if approximate else None

    def best(self, row: int, k: int, allowed: ItemFilter) -> Best:
        """The k best allowed items but the one asked about."""
        vectors, others = self.vectors, allowed.deny([row])
        if self.index is not None and not reads_all(others):
            denied = others.trie.order[others.denied]
            mask = None if others.shared is None else others.shared.mask
            found = self.index.search(vectors[[row]], max(4 * k, _LEAST) + len(denied), mask)[0]
            near = np.setdiff1d(found[found >= 0], denied)
            places, cosines = best(vectors[near] @ vectors[row], k)
            if len(places) == min(k, others.count):
                return near[places].astype(np.int32), cosines
        return best(others.apply_to_scores(vectors @ vectors[row]), k)


def best(scores: NDArray[np.float32], k: int) -> Best:
    """The k best of scores [N], of equal ones the lower row; what is -inf is none."""
    rows = np.arange(len(scores))
    if k < len(scores):
        rows = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    rows = rows[~np.isneginf(scores[rows])]
    found = rows[np.argsort(-scores[rows], kind="stable")[:k]].astype(np.int32)
    return found, scores[found]
