"""Tasks that tie an item's codes to its words (LC-Rec, Zheng et al. 2023, sections III-C.2 and III-C.3): text to codes,
codes to title, and a query made from attributes to codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec.semtok.catalog import Catalog
from genrec.tasks.facets import Facets
from genrec.tasks.templates import CODES_TO_TEXT, QUERY_TO_CODES, TEXT_TO_CODES
from genrec.tasks.writer import PromptWriter, TaskRow, draw


class TextToCodes:
    """From an item's words to its codes; half the time from its title alone."""

    def __init__(self, writer: PromptWriter, n_items: int) -> None:
        self._writer, self.subjects = writer, np.arange(n_items)

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        template = draw(TEXT_TO_CODES, rng)
        words = self._writer.title(subject) if rng.random() < 0.5 else self._writer.text(subject)
        return TaskRow(self._writer.fill(template, text=words), self._writer.item(subject))


class CodesToText:
    """From an item's codes to its title."""

    def __init__(self, writer: PromptWriter, n_items: int) -> None:
        self._writer, self.subjects = writer, np.arange(n_items)

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        prompt = self._writer.fill(draw(CODES_TO_TEXT, rng), item=self._writer.item(subject))
        return TaskRow(prompt, self._writer.answer(self._writer.title(subject)))


class QueryToCodes:
    """From what a person would type, price word, brand and kind, to the codes of one item that it fits."""

    subjects: NDArray[np.int64]

    def __init__(self, writer: PromptWriter, catalog: Catalog, facets: Facets) -> None:
        self._writer, self._facets, self._titles = writer, facets, catalog.titles
        self.subjects = np.array([row for row, title in enumerate(catalog.titles) if title.strip() or self._has(row)])

    def _has(self, row: int) -> bool:
        return bool(self._facets.kinds[row] or self._facets.brands[row])

    def query(self, row: int, rng: np.random.Generator) -> str:
        """Some of the item's facets in the order of speech; a few words of its title where it has none."""
        kinds, brand, price = self._facets.kinds[row], self._facets.brands[row], self._facets.prices[row]
        if not self._has(row):
            words = self._titles[row].split()
            return " ".join(words[i] for i in np.sort(rng.permutation(len(words))[: rng.integers(2, 5)]))
        names = [kinds[-1] if rng.random() < 0.8 else kinds[rng.integers(len(kinds))]] if kinds else []
        if brand and (not names or rng.random() < 0.5):
            names.insert(0, brand)
        if price and rng.random() < 0.5:
            names.insert(0, price)
        text = " ".join(names)
        return text.lower() if rng.random() < 0.5 else text

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        template = draw(QUERY_TO_CODES, rng)
        prompt = self._writer.fill(template, text=self._writer.words(self.query(subject, rng)))
        return TaskRow(prompt, self._writer.item(subject))
