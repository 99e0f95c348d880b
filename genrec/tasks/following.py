"""Tasks about a history: its codes to the next title, its titles to the next codes, and what its owner likes (LC-Rec,
Zheng et al. 2023, sections III-C.4 and III-C.5).

The item that is asked for is any but the first of a training history; what comes before it is the prompt.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec.data.sequences import Sequences
from genrec.semtok.catalog import Catalog
from genrec.tasks.preference_texts import template_texts
from genrec.tasks.templates import CODES_TO_TITLE, PREFERENCE, TITLES_TO_CODES
from genrec.tasks.writer import PromptWriter, TaskRow, draw

Rows = NDArray[np.int32]
_TITLES, _TITLE_TOKENS = 8, 16  # of a history in words: its last titles, and the tokens of one


class Histories:
    """Training histories that hold at least two items.

    Args:
        sequences: training histories.
        max_items: the last items of a history that a prompt holds.
    """

    def __init__(self, sequences: Sequences, max_items: int) -> None:
        self.sequences, self.max_items = sequences, max_items
        self.subjects = np.flatnonzero(sequences.lengths >= 2)

    def cut(self, subject: int, rng: np.random.Generator) -> tuple[Rows, int]:
        """What comes before one of a history's items, and that item."""
        history = self.sequences[subject]
        place = int(rng.integers(1, len(history)))
        return history[max(0, place - self.max_items) : place], int(history[place])


class CodesToTitle:
    """From the codes of a history to the title of the next item."""

    def __init__(self, writer: PromptWriter, histories: Histories) -> None:
        self._writer, self._histories, self.subjects = writer, histories, histories.subjects

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        before, target = self._histories.cut(subject, rng)
        prompt = self._writer.fill(draw(CODES_TO_TITLE, rng), history=self._writer.history(before))
        return TaskRow(prompt, self._writer.answer(self._writer.title(target)))


class TitlesToCodes:
    """From the titles of a history to the codes of the next item."""

    def __init__(self, writer: PromptWriter, histories: Histories) -> None:
        self._writer, self._histories, self.subjects = writer, histories, histories.subjects
        self._stop = writer.words(";")

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        before, target = self._histories.cut(subject, rng)
        titles: list[int] = []
        for row in before[-_TITLES:].tolist():
            titles += [*self._writer.title(row)[:_TITLE_TOKENS], *self._stop]
        return TaskRow(self._writer.fill(draw(TITLES_TO_CODES, rng), titles=titles), self._writer.item(target))


class PreferenceSummary:
    """From the codes of a history to a sentence on what its owner likes, by the template of `preference_texts`."""

    def __init__(self, writer: PromptWriter, histories: Histories, catalog: Catalog) -> None:
        self._writer, self._histories = writer, histories
        recent = histories.sequences.last(histories.max_items)
        self._texts = template_texts(catalog, recent, most=3, titles=2, max_characters=240)
        self.subjects = np.array([s for s in histories.subjects if self._texts[s]], dtype=np.int64)

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        rows = self._histories.sequences[subject][-self._histories.max_items :]
        prompt = self._writer.fill(draw(PREFERENCE, rng), history=self._writer.history(rows))
        return TaskRow(prompt, self._writer.answer(self._writer.words(self._texts[subject])))
