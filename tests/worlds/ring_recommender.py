"""A recommender for the server's tests whose answers can be worked out by hand.

Items stand in a ring in catalogue order; after item i come i + 1, i + 2, ... with scores -1, -2, ...; an anonymous user
starts before item 0. Filters, denied items and errors go through the real `WhereFilters` over a real catalogue.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from genrec.data.sequences import Sequences
from genrec.decoding.filters import WhereFilters
from genrec.decoding.trie import CodeTrie
from genrec.recommendations import RankedRows, Recommendations
from genrec.semtok.catalog import Catalog
from genrec.semtok.semantic_ids import SemanticIds


def shop(n: int = 12) -> Catalog:
    """Items i0, i1, ...: price is the number, colour red and blue by turns, tags a list."""
    return Catalog(
        item_ids=tuple(f"i{row}" for row in range(n)),
        titles=tuple(f"Item {row}" for row in range(n)),
        attributes=pl.DataFrame(
            {
                "price": [float(row) for row in range(n)],
                "colour": [("red", "blue")[row % 2] for row in range(n)],
                "tags": [["new"] if row < 3 else ["old", "sale"] for row in range(n)],
            }
        ),
        withdrawn=np.zeros(n, dtype=np.bool_),
    )


class RingRecommender:
    """What the server needs of a `Recommender`.

    Attributes:
        batches: the histories of each call of `recommend`.
        gate: `recommend` waits until it is set, so that a test decides when an answer comes.
    """

    def __init__(self, catalog: Catalog, *, index_version: str = "ix") -> None:
        n = len(catalog)
        codes = np.stack([np.arange(n) // 4, np.arange(n) % 4], axis=1).astype(np.int32)
        sizes = (n // 4 + 1, 4)
        self.catalog, self.run_id, self.index_version = catalog, "ring", index_version
        self.semantic_ids = SemanticIds(catalog.item_ids, codes, sizes)
        self._filters = WhereFilters(CodeTrie(codes, sizes), catalog)
        self.batches: list[list[tuple[str, ...]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.filter_viewed, self.can_search = True, True

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        k: int = 10,
        ranking: str | None = None,
        filter_viewed: bool | None = None,
        where: Mapping[str, Any] | None = None,
        deny: Sequence[Sequence[str]] | None = None,
    ) -> Recommendations:
        self.batches.append([tuple(history) for history in histories])
        assert self.gate.wait(timeout=30)
        allowed = self._filters(where)
        rows, scores, reasons = [], [], []
        for i, history in enumerate(histories):
            seen = self.catalog.rows(history)
            refused = self.catalog.rows([] if deny is None else deny[i])
            viewed = self.filter_viewed if filter_viewed is None else filter_viewed
            mask = allowed.deny(refused).deny(seen if viewed else []).allowed_mask()
            last = int(seen[-1]) if len(seen) else -1
            ring = [(last + 1 + step) % len(self.catalog) for step in range(len(self.catalog))]
            kept = [(row, -1.0 - step) for step, row in enumerate(ring) if mask[row]][:k]
            rows.append([row for row, _ in kept])
            scores.extend(score for _, score in kept)
            reasons.append(None if len(kept) == k else f"{len(kept)} items are allowed")
        ranked = RankedRows(Sequences.from_lists(rows), np.asarray(scores, dtype=np.float32), tuple(reasons))
        return Recommendations.of(ranked, self.catalog, range(len(rows)), "history")

    def similar(self, items: str, k: int = 10) -> Recommendations:
        row = self.catalog.row(items)
        others = sorted((abs(other - row), other) for other in range(len(self.catalog)) if other != row)
        rows = Sequences.from_lists([[other for _, other in others[:k]]])
        scores = np.array([-distance for distance, _ in others[:k]], dtype=np.float32)
        return Recommendations.of(RankedRows(rows, scores, (None,)), self.catalog, [items], "target_item_id")

    def search(
        self, queries: str, k: int = 10, *, where: Mapping[str, Any] | None = None, deny: Sequence[str] = ()
    ) -> Recommendations:
        """Allowed items whose title ends with the query, in catalogue order."""
        mask = self._filters(where).deny(self.catalog.rows(deny)).allowed_mask()
        found = [row for row, title in enumerate(self.catalog.titles) if mask[row] and title.endswith(queries)][:k]
        scores = -np.arange(len(found), dtype=np.float32)
        reason = None if len(found) == k else f"{len(found)} items were found"
        ranked = RankedRows(Sequences.from_lists([found]), scores, (reason,))
        return Recommendations.of(ranked, self.catalog, [queries], "query")
