"""The schedule that moves weight from the item-level to the feature-level loss and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from genrec.semtok.errors import InputError


@dataclass(frozen=True)
class CosineCurriculum:
    """Weights of the two losses over the epochs (FAERec, arXiv 2604.03688):

        w_item(e) = w_min + (1 - w_min) (1 + cos(2 pi e / T)) / 2,   w_feature(e) = 1 - w_item(e)

    Epoch 0 is item-level alone; the feature-level loss has most, 1 - w_min, at T / 2; then back.

    Attributes:
        minimum: w_min, the least weight of the item-level loss.
        period: T, epochs.
    """

    minimum: float
    period: float

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= 1:
            raise InputError(f"curriculum minimum {self.minimum}: must lie between 0 and 1")
        if not 0 < self.period < math.inf:
            raise InputError(f"curriculum period {self.period}: must be finite and above 0")

    def weights(self, epoch: float) -> tuple[float, float]:
        """(w_item, w_feature) after so many epochs."""
        item = self.minimum + (1 - self.minimum) * (1 + math.cos(2 * math.pi * epoch / self.period)) / 2
        return item, 1 - item
