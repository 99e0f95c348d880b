"""Why an item is shown, from what is true of it: what people took before it, what it shares with the history, the words
and conditions it meets, how it stands out of the other cards.

Shapes: N items, L levels, n items of a history.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from genrec.inference.chat.catalog_words import LONGEST_VALUE, WORD, CatalogWords, words_of
from genrec.inference.chat.patterns import cut, listed
from genrec.inference.chat.phrases import FILLER
from genrec.inference.chat.state import ConversationState, as_values
from genrec.semtok.catalog import Catalog

_SHORT = 2  # things that one line tells
_LONGEST = 110  # characters of them
_OFTEN = 2  # times that one line tells of
_QUOTED = 90  # characters of a text that are quoted


@dataclass(frozen=True)
class _Tie:
    """What an item shares with one item of the history, and how often it was taken right after it."""

    row: int
    values: tuple[str, ...]
    prefix: int
    times: int


class Reasons:
    """Gives reasons for the items of one catalogue.

    Args:
        codes: int32 [N, L], the items' semantic IDs.
        transitions: sparse [N, N], how often an item (column) was taken right after another (row) in training.
        counts: [N], how often each item was taken in training.
    """

    def __init__(
        self,
        catalog: Catalog,
        words: CatalogWords,
        codes: NDArray[np.int32],
        transitions: csr_array | None = None,
        counts: NDArray[np.float32] | None = None,
    ) -> None:
        self.catalog, self.words, self.codes = catalog, words, codes
        self._transitions, self._counts = transitions, counts

    def short(self, row: int, state: ConversationState) -> str:
        """One line of what the card itself doesn't tell, `_SHORT` things at most: what people took after an item of
        the history, what it shares with one, where the wish stands in its text, how it stands out of the cards."""
        parts = [*self._ties_told(row, state), self._words_met(row, state), *self._among(row, state)]
        if not state.wish and not state.history:
            parts.append(self._popular(row))
        if not any(parts) and (matched := self._matched_words(row, state.wish)):
            parts.append(f"mentions {listed(matched)}")
        found = [part for part in parts if part][:_SHORT]
        if len("; ".join(found)) > _LONGEST:
            found = found[:1]
        told = "; ".join(found)
        return told[:1].upper() + told[1:] or self._rank_only(state)

    def full(self, row: int, state: ConversationState) -> str:
        """Every reason, a line each."""
        lines = []
        if state.wish:
            matched = self._matched_words(row, state.wish)
            met = self._words_met(row, state)
            found = f"its text mentions {listed(matched)}" if matched else "none of these words stands in its text"
            lines.append(f"You look for “{state.wish}”: {met or found}.")
        for tie in self._ties(row, state):
            told = [f"it shares {listed(tie.values)}"] if tie.values else []
            told += [f"it was taken right after it {_times(tie.times)}"] if tie.times else []
            told += ["the model places them close together"] if tie.prefix else []
            lines.append(f"With {self.title(tie.row)}, which you have: {listed(told)}.")
        if conditions := self._conditions_met(row, state.where):
            lines.append(f"It meets: {'; '.join(conditions)}.")
        lines += [f"It is {told}." for told in self._among(row, state)]
        if popular := self._popular(row):
            lines.append(f"It is {popular}.")
        if not lines:
            lines.append(f"{self._rank_only(state)}.")
        return "\n".join(lines)

    # What there is to say, "" where nothing is

    def _ties_told(self, row: int, state: ConversationState) -> list[str]:
        """The strongest ties to the history; what was asked for as a condition is no tie, since every card has it."""
        asked = {value for condition in state.where.values() for value in as_values(condition)}
        ties = [
            replace(tie, values=tuple(value for value in tie.values if value not in asked))
            for tie in self._ties(row, state)
        ]
        told = []
        after = max(ties, key=lambda tie: tie.times, default=None)
        if after is not None and after.times >= _OFTEN:
            told.append(f"taken right after {self.title(after.row)} {_times(after.times)}")
        like = max(ties, key=lambda tie: (len(tie.values), tie.prefix), default=None)
        if like is not None and like.values:
            title = "it" if told and after is not None and after.row == like.row else self.title(like.row)
            told.append(f"shares {listed(like.values[:2])} with {title}")
        elif like is not None and like.prefix and not told:
            told.append(f"the model places it close to {self.title(like.row)}")
        return told

    def _words_met(self, row: int, state: ConversationState) -> str:
        """Where words of a wish stand in the item's text, unless its title has them all, which anybody sees; and which
        of them do not, where another card has them."""
        wish = state.wish
        telling = [word for word in wish.split() if len(word) > 1 and set(words_of(word)) - FILLER]
        titled = set(words_of(self.catalog.titles[row]))
        apart = [word for word in telling if not set(words_of(word)) <= titled]
        for name in self.words.columns:
            value = self.catalog.attributes[name][row]
            if isinstance(value, str) and len(value) > LONGEST_VALUE:
                said = next((word for word in apart if set(words_of(word)) & set(words_of(value))), None)
                if said is not None:
                    return f"its {name} says “{_around(value, said)}”"
        cards = [self.catalog.row(item_id) for item_id in state.shown]
        elsewhere = {word for card in cards for word in self._matched_words(card, wish)}
        missing = [word for word in apart if word.lower() in elsewhere - set(self._matched_words(row, wish))]
        return f"its text doesn't mention {listed(missing[:2])}" if missing else ""

    def _among(self, row: int, state: ConversationState) -> list[str]:
        """How an item stands out of the cards on the table, of which there are three at least."""
        rows = [self.catalog.row(item_id) for item_id in state.shown]
        if row not in rows or len(rows) < 3:
            return []
        found, price = [], self.words.price
        if price is not None and state.order is None:
            values = self.catalog.attributes[price].gather(rows).to_list()
            own = self.catalog.attributes[price][row]
            known = [value for value in values if value is not None]
            if own is not None and known.count(own) == 1 and len(known) > 1:
                found += ["the cheapest of these"] if own == min(known) else []
                found += ["the dearest of these"] if own == max(known) else []
        for name in self.words.names[:1]:
            values = self.catalog.attributes[name].gather(rows).to_list()
            own = self.catalog.attributes[name][row]
            if own is not None and values.count(own) == 1 and len(set(values)) < len(values):
                found.append(f"the only one by {own}")
        return found

    def _popular(self, row: int) -> str:
        """The item's place by how often it was taken, among the first tenth."""
        if self._counts is None or not self._counts[row]:
            return ""
        place = 1 + int((self._counts > self._counts[row]).sum())
        if place > max(1, len(self._counts) // 10):
            return ""
        return f"number {place} of {len(self._counts):,} by how often it was taken"

    def title(self, row: int) -> str:
        """A title in quotation marks, cut where it is long."""
        return f"‹{cut(self.catalog.titles[row], 60)}›"

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
            times = 0 if self._transitions is None else int(self._transitions[other, row])
            if values or prefix or times:
                ties.append(_Tie(other, values, prefix, times))
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

    @staticmethod
    def _rank_only(state: ConversationState) -> str:
        """What is left to say where words and attributes have nothing in common."""
        if state.wish:
            return "Ranked by the model alone, for your words"
        return "Ranked by the model alone, " + ("after your history" if state.history else "as something to begin with")


def _around(text: str, word: str) -> str:
    """The part of a text around a word: the sentence, cut where it is long."""
    sentences = re.split(r"(?<=[.!?;])\s+", text)
    wanted = set(words_of(word))
    sentence = next((one for one in sentences if wanted & set(words_of(one))), text).rstrip(".;")
    if len(sentence) <= _QUOTED:
        return sentence
    at = next((match.start() for match in WORD.finditer(sentence) if wanted & set(words_of(match[0]))), 0)
    begin = max(0, min(at - _QUOTED // 3, len(sentence) - _QUOTED))
    part = sentence[begin : begin + _QUOTED]
    before, after = "…" if begin else "", "…" if begin + _QUOTED < len(sentence) else ""
    if before:
        part = part.partition(" ")[2]
    if after:
        part = part.rpartition(" ")[0]
    return f"{before}{part}{after}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def format_value(value: Any) -> str:
    """An attribute as it is shown."""
    if hasattr(value, "to_list"):
        value = value.to_list()
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
