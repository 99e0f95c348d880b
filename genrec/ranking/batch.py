"""`Batch`: users who are ranked together, and what is asked for each of them.

Shapes: B users, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genrec.data.sequences import Sequences
from genrec.decoding.filters import ItemFilter


@dataclass(frozen=True)
class Batch:
    """Histories of B users, as each component scorer reads them.

    Attributes:
        histories: catalogue rows, oldest first.
        recent: the last items of each, which the language model and co-occurrence read.
        prompts: LM token ids of these.
        filters: one a user.
        k: items of a list, no more than there are.
        beams: prefixes that a search keeps on each level.
    """

    histories: Sequences
    recent: Sequences
    prompts: list[list[int]]
    filters: Sequence[ItemFilter]
    k: int
    beams: int

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, users: NDArray[np.int64]) -> Batch:
        """The same of some users."""
        prompts, filters = [self.prompts[i] for i in users], [self.filters[i] for i in users]
        histories, recent = self.histories.take(users), self.recent.take(users)
        return replace(self, histories=histories, recent=recent, prompts=prompts, filters=filters)
