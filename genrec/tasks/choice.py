"""Negative-sampling tasks (Semantic Convergence, Li et al. 2024, stage 2, as we read it): would this user take this
item, and which of two. Half of the negatives are as popular as the positive, half share its first code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec.tasks.following import Histories
from genrec.tasks.negatives import Negatives
from genrec.tasks.templates import NO, PREFERRED_OF_TWO, WOULD_TAKE, YES
from genrec.tasks.writer import PromptWriter, TaskRow, draw


class WouldTake:
    """Yes for the item that came next, no for a negative; either with chance 1/2."""

    def __init__(self, writer: PromptWriter, histories: Histories, negatives: Negatives) -> None:
        self._writer, self._histories, self._negatives = writer, histories, negatives
        self.subjects = _served(histories, negatives)

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        before, item = self._histories.cut(subject, rng)
        interacted = rng.random() < 0.5
        if not interacted:
            item = self._negatives.like(item, self._histories.sequences[subject], rng)
        prompt = self._writer.fill(
            draw(WOULD_TAKE, rng),
            history=self._writer.history(before),
            item=self._writer.item(item),
            title=self._writer.title(item),
        )
        return TaskRow(prompt, self._writer.answer(self._writer.words(YES if interacted else NO)))


class PreferredOfTwo:
    """The codes of the item that came next, offered beside a negative in random order."""

    def __init__(self, writer: PromptWriter, histories: Histories, negatives: Negatives) -> None:
        self._writer, self._histories, self._negatives = writer, histories, negatives
        self.subjects = _served(histories, negatives)

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        before, positive = self._histories.cut(subject, rng)
        pair = [positive, self._negatives.like(positive, self._histories.sequences[subject], rng)]
        first, second = pair if rng.random() < 0.5 else pair[::-1]
        prompt = self._writer.fill(
            draw(PREFERRED_OF_TWO, rng),
            history=self._writer.history(before),
            item=self._writer.item(first),
            other=self._writer.item(second),
        )
        return TaskRow(prompt, self._writer.item(positive))


def _served(histories: Histories, negatives: Negatives) -> NDArray[np.int64]:
    """Histories whose user has not interacted with every item."""
    return np.array([s for s in histories.subjects if negatives.can_serve(histories.sequences[int(s)])], dtype=np.int64)
