"""Why an item is shown, from what is true of it: the words and conditions it meets, what it shares with the history.

Shapes: N items, L levels, n items of a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.decoding.vocabulary import spell
from genrec.inference.chat.catalog_words import CatalogWords, words_of
from genrec.inference.chat.phrases import FILLER
from genrec.inference.chat.state import ConversationState, as_values
from genrec.semtok.catalog import Catalog


@dataclass(frozen=True)
class _Tie:
    """What an item shares with one item of the history."""

    row: int
    values: tuple[str, ...]
    prefix: int


class Reasons:
    """Gives reasons for the items of one catalogue.

    Args:
        codes: int32 [N, L], the items' semantic IDs.
    """

    def __init__(self, catalog: Catalog, words: CatalogWords, codes: NDArray[np.int32]) -> None:
        self.catalog, self.words, self.codes = catalog, words, codes

    def short(self, row: int, state: ConversationState) -> str:
        """One line: the words that match, then the strongest tie to the history, then the conditions."""
        parts = []
        matched = self._matched_words(row, state.wish)
        if matched:
            parts.append(f"says {', '.join(matched[:4])}")
        tie = max(self._ties(row, state), key=lambda tie: (len(tie.values), tie.prefix), default=None)
        if tie is not None and tie.values:
            parts.append(f"{' and '.join(tie.values[:2])}, like {self.title(tie.row)}")
        elif tie is not None:
            parts.append(f"{self._spelled(row, tie.prefix)} in common with {self.title(tie.row)}")
        parts += self._conditions_met(row, state.where)
        return "; ".join(parts) or self._rank_only(state)

    def full(self, row: int, state: ConversationState) -> str:
        """Every reason, a line each."""
        lines = [f"{self.title(row)} is {self._spelled(row, self.codes.shape[1])}."]
        matched = self._matched_words(row, state.wish)
        if state.wish:
            said = f"its words have {', '.join(matched)}" if matched else "none of the words stands in its text"
            lines.append(f'You look for "{state.wish}": {said}.')
        for tie in self._ties(row, state):
            shared = [*tie.values, *([f"the codes {self._spelled(row, tie.prefix)}"] if tie.prefix else [])]
            lines.append(f"With {self.title(tie.row)} from your history it shares {', '.join(shared)}.")
        conditions = self._conditions_met(row, state.where)
        if conditions:
            lines.append(f"It meets: {'; '.join(conditions)}.")
        if len(lines) == 1:
            lines.append(f"It is here because it was {self._rank_only(state)}.")
        return "\n".join(lines)

    def title(self, row: int) -> str:
        """A title in quotation marks, cut where it is long."""
        title = self.catalog.titles[row]
        return f"‹{title if len(title) <= 60 else title[:59].rstrip() + '…'}›"

    def _matched_words(self, row: int, wish: str) -> list[str]:
        """Words of the wish that stand in the item's text, as typed."""
        have = set(words_of(self.catalog.text(row)))
        matched = {word.lower(): None for word in wish.split() if len(word) > 1 and set(words_of(word)) & have - FILLER}
        return list(matched)

    def _ties(self, row: int, state: ConversationState) -> list[_Tie]:
        """What the item shares with each item of the history, the latest first; those that share nothing left out."""
        own, ties = self._values(row), []
        for item_id in reversed(state.history):
            other = self.catalog.row(item_id)
            if other == row:
                continue
            theirs = self._values(other)
            same = self.codes[row] == self.codes[other]
            prefix = int(np.logical_and.accumulate(same).sum())
            values = tuple(value for value in own if value in theirs)
            if values or prefix:
                ties.append(_Tie(other, values, prefix))
        return ties

    def _values(self, row: int) -> list[str]:
        """Brand and categories of an item, the most special category first."""
        found: list[str] = []
        for name in (*self.words.names, *self.words.kinds):
            value = self.catalog.attributes[name][row]
            if value is not None:
                found += [value] if isinstance(value, str) else reversed(value.to_list())
        return list(dict.fromkeys(found))

    def _conditions_met(self, row: int, where: Mapping[str, Any]) -> list[str]:
        """The conditions that an item meets. Cards meet them all; a neighbour may fail one, or have no value for it."""
        matched = []
        for name, condition in where.items():
            column = self.catalog.attributes[name]
            value = column[row]
            if value is None:
                continue
            if isinstance(condition, tuple) and column.dtype.is_numeric():
                low, high = condition
                if (low is None or value >= low) and (high is None or value <= high):
                    matched.append(f"{name} {format_value(value)}")
                continue
            has = {value} if isinstance(value, str | int | float) else set(value)
            values = [str(value) for value in as_values(condition) if value in has]
            if values:
                matched.append(f"{name}: {', '.join(values)}")
        return matched

    def _spelled(self, row: int, levels: int) -> str:
        return "".join(spell(level, int(code)) for level, code in enumerate(self.codes[row][:levels]))

    @staticmethod
    def _rank_only(state: ConversationState) -> str:
        """What is left to say where words and attributes have nothing in common."""
        if state.wish:
            return "ranked by the model alone, for your words"
        return "ranked by the model alone, " + ("after your history" if state.history else "as something to begin with")


def format_value(value: Any) -> str:
    """An attribute as it is shown."""
    if hasattr(value, "to_list"):
        value = value.to_list()
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
