"""`Draft`: a reading while its clauses are read, and what all rules need: the cards, the words, spelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from genrec.inference.chat import phrases
from genrec.inference.chat.catalog_words import WORD, CatalogWords, Meaning, fold
from genrec.inference.chat.patterns import cut
from genrec.inference.chat.reading import Act, Reading
from genrec.inference.chat.state import ConversationState
from genrec.semtok.catalog import Catalog


class Draft:
    """One reading of one turn.

    Attributes:
        found: the reading, which fills as clauses are read.
        wishes: words to look for, by clause.
        relation: "cheaper" or "dearer" without an amount.
        compared: rows that it compares with; none: those of the table.
        asked_kinds: attributes whose values a clause has asked for.
        unknown: words to look for that the catalogue doesn't have.
        known: whether a word to look for is one of the catalogue's.
    """

    def __init__(self, state: ConversationState, words: CatalogWords, catalog: Catalog) -> None:
        self.state, self.words, self.catalog = state, words, catalog
        self.found = Reading()
        self.wishes: list[str] = []
        self.relation: Literal["below", "above"] | None = None
        self.compared: list[int] = []
        self.asked_kinds: set[str] = set()
        self.unknown: list[str] = []
        self.known = False

    def note(self, text: str) -> None:
        """Say what was understood, or what was not."""
        self.found.notes.append(text)

    def fail(self, act: Act, why: str) -> None:
        """Say why an act that was understood can't be done."""
        self.found.vain.append(act)
        self.note(why)

    def title(self, row: int) -> str:
        """A title as notes have it."""
        return f"‹{cut(self.catalog.titles[row], 60)}›"

    def shown_rows(self, places: Sequence[int]) -> list[int]:
        """The rows of cards by their places from 0; a place beyond the table is noted."""
        shown = self.state.shown
        beyond = [place + 1 for place in places if not 0 <= place < len(shown)]
        if beyond:
            table = f"there are {len(shown)} cards on the table" if shown else "there are no cards on the table yet"
            self.note(f"no card {', '.join(map(str, beyond))}: {table}")
        return [self.catalog.row(shown[place]) for place in places if 0 <= place < len(shown)]

    def folded(self, text: str) -> tuple[list[str], list[str]]:
        """Words folded, typos put right, and as typed."""
        folded, raw = [], []
        for match in WORD.finditer(text):
            word = spelled = match[0]
            key = fold(word)
            if key not in self.words.vocabulary and key not in phrases.FILLER and (better := self.words.correct(key)):
                self.note(f"'{word}' read as '{better}'")
                key = spelled = better
            folded.append(key)
            raw.append(spelled)
        return folded, raw


def content_words(text: str) -> list[str]:
    """The words of a text that say something."""
    return [word for word in WORD.findall(text) if fold(word) not in phrases.FILLER]


def content(text: str) -> str:
    """The same as a text."""
    return " ".join(content_words(text))


def add_values(values: dict[str, list[str]], meaning: Meaning) -> None:
    """Add what a phrase names to values by attribute."""
    kept = values.setdefault(meaning.attribute, [])
    kept.extend(value for value in meaning.values if value not in kept)
