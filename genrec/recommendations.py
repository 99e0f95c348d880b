"""`Recommendations`: ranked lists, one a user or case, that may be shorter than asked and then say why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.data.sequences import Sequences


@dataclass(frozen=True)
class Recommendations:
    """Ragged ranked lists.

    Attributes:
        ids: user or case ids, B of them.
        rows: catalogue rows, best first, one sequence an id.
        scores: float32, aligned with `rows.values`; comparable within a list.
        reasons: why a list is shorter than K, or None where it is full.
    """

    ids: tuple[str, ...]
    rows: Sequences
    scores: NDArray[np.float32]
    reasons: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.rows) == len(self.reasons):
            raise ValueError(f"{len(self.ids)} ids, {len(self.rows)} lists and {len(self.reasons)} reasons")
        if len(self.scores) != len(self.rows.values):
            raise ValueError(f"{len(self.rows.values)} items but {len(self.scores)} scores")

    @classmethod
    def from_padded(
        cls, ids: tuple[str, ...], rows: NDArray[np.int32], scores: NDArray[np.float32], reasons: tuple[str | None, ...]
    ) -> Recommendations:
        """Build from [B, K] arrays in which -1 pads a list at its end."""
        kept = rows >= 0
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(kept.sum(axis=1), out=offsets[1:])
        return cls(ids, Sequences(rows[kept].astype(np.int32), offsets), scores[kept].astype(np.float32), reasons)

    def __len__(self) -> int:
        return len(self.ids)
