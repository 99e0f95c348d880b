"""What the catalogue says: answers to questions about cards, in its own words, or that it doesn't say.

answer(Question("fact", rows=(3,), attribute="price"), state, catalog, words)     # Answer("‹Tent› costs 59.00.", ())
answer(Question("compare", rows=(3, 8)), state, catalog, words).table             # a row an attribute, a column a card
"""

from __future__ import annotations

from typing import NamedTuple

from genrec.inference.chat.catalog_words import CatalogWords, commonest, words_of
from genrec.inference.chat.patterns import cut, listed
from genrec.inference.chat.prices import say_price
from genrec.inference.chat.reading import Question
from genrec.inference.chat.reasons import format_value
from genrec.inference.chat.state import ConversationState
from genrec.semtok.catalog import Catalog

KINDS_NAMED = 8  # kinds of items that an overview names
_CELL = 80  # characters of a value in a table


class Answer(NamedTuple):
    """A text, and a table whose first row is its heading; no rows: none."""

    text: str
    table: tuple[tuple[str, ...], ...] = ()


def answer(question: Question, state: ConversationState, catalog: Catalog, words: CatalogWords) -> Answer:
    """The answer to a question; nothing in it but the catalogue's own values."""
    return _Answering(question, state, catalog, words).answer()


def can_do(catalog: Catalog, words: CatalogWords) -> str:
    """What can be said here, with kinds of items of this catalogue."""
    kinds = common_kinds(catalog, words)
    example = f"“{kinds[0].lower()}{' under 20' if words.price else ''}”" if kinds else "what you look for"
    return (
        f"Say what you look for ({example}), what you like or have, what you don't want, or ask about a card: "
        f"its price, how two of them differ, why it is here. {goods(catalog, words)}"
    )


def goods(catalog: Catalog, words: CatalogWords) -> str:
    """How many items there are, and of which kinds."""
    kinds = common_kinds(catalog, words)
    return f"There are {len(catalog):,} items here" + (f", such as {listed(kinds)}." if kinds else ".")


class _Answering:
    def __init__(self, question: Question, state: ConversationState, catalog: Catalog, words: CatalogWords) -> None:
        self.question, self.state, self.catalog, self.words = question, state, catalog, words
        self.places = {catalog.row(item_id): place for place, item_id in enumerate(state.shown, start=1)}

    def answer(self) -> Answer:
        question = self.question
        if question.kind == "greet":
            return Answer(f"Hello! What are you looking for? {goods(self.catalog, self.words)}")
        if question.kind == "thanks":
            return Answer("You're welcome. Tell me if you look for anything else.")
        if question.kind == "acknowledge":
            return Answer("All right. Tell me what else you look for, or ask about a card.")
        if question.kind == "help":
            return Answer(can_do(self.catalog, self.words))
        if question.kind == "off_topic":
            return Answer(f"I only know this catalogue, and it says nothing about “{question.asked}”.")
        if not question.rows:
            count = len(self.state.shown)
            cards = "is 1 card" if count == 1 else f"are {count or 'no'} cards"
            return Answer(f"Which one? There {cards} here.")
        ask = {
            "fact": self._fact, "is_it": self._is_it, "tell": self._tell, "compare": self._compare,
            "extreme": self._extreme,
        }  # fmt: skip
        return ask[question.kind]()

    def _fact(self) -> Answer:
        name, rows = self.question.attribute, self.question.rows
        if name is None:
            of = self._named(rows[0]) if len(rows) == 1 else "these"
            return Answer(f"The catalogue doesn't say: it has nothing on “{self.question.asked}” for {of}.")
        values = [self._value(row, name) for row in rows]
        if len(rows) == 1:
            if not values[0]:
                return Answer(f"The catalogue doesn't say: {self._named(rows[0])} has no {name}.")
            says = f"costs {values[0]}" if name == self.words.price else f"has the {_singular(name)} {values[0]}"
            return Answer(f"{self._named(rows[0])} {says}.")
        cells = ((self._place(row), self._title(row), value or "–") for row, value in zip(rows, values, strict=True))
        return Answer(f"Here is the {_singular(name)} of each:", (("", "item", name), *cells))

    def _is_it(self) -> Answer:
        """What a card's own text says of the words that were asked about, or how its price stands to a limit."""
        question = self.question
        priced = question.low is not None or question.high is not None
        return Answer(
            " ".join(self._within(row) if priced else self._says(row, question.asked) for row in question.rows)
        )

    def _within(self, row: int) -> str:
        price, question = self.words.price, self.question
        value = None if price is None else self.catalog.attributes[price][row]
        if price is None or value is None:
            return f"The catalogue doesn't say: {self._named(row)} has no price."
        inside = (question.low is None or value >= question.low) and (question.high is None or value <= question.high)
        limit = say_price("", (question.low, question.high)).strip()
        return f"{'Yes' if inside else 'No'}: {self._named(row)} costs {format_value(value)} (asked: {limit})."

    def _says(self, row: int, asked: str) -> str:
        wanted = set(words_of(asked))
        for name, value in self._values(row).items():
            if wanted <= set(words_of(value)):
                if name == "title":
                    return f"Its title says so: {self._named(row)}."
                return f"Yes, by its {name}: “{cut(value, 160)}”."
        if wanted <= set(words_of(self.catalog.text(row))):
            return f"The catalogue's text of {self._named(row)} has all of “{asked}”."
        return f"The catalogue doesn't say whether {self._named(row)} is “{asked}”."

    def _tell(self) -> Answer:
        row = self.question.rows[0]
        values = self._values(row)
        facts = "; ".join(f"{name}: {value}" for name, value in values.items() if name != "title")
        return Answer(f"{self._named(row)}. {facts or 'The catalogue says nothing else of it'}.")

    def _compare(self) -> Answer:
        rows, asked = self.question.rows, self.question.asked
        if len(rows) < 2:
            return Answer("There is only one card here, so there is nothing to compare it with.")
        columns = [name for name in self.words.columns if any(self._value(row, name) for row in rows)]
        differing = [name for name in columns if len({self._value(row, name) for row in rows}) > 1]
        heading = ("", *(f"{self._place(row)} {cut(self.catalog.titles[row], _CELL)}".strip() for row in rows))
        table = (
            heading,
            *((name, *(cut(self._value(row, name) or "–", _CELL) for row in rows)) for name in differing),
        )
        lead = self._for_purpose(asked) if asked else ""
        if not differing:
            return Answer(f"{lead}By all that the catalogue says, they are the same but for their titles.".strip())
        same = [name for name in columns if name not in differing]
        alike = f" The same in {'both' if len(rows) == 2 else 'all'}: {listed(same)}." if same else ""
        return Answer(f"{lead}They differ in {listed(differing)}.{alike}", table)

    def _for_purpose(self, asked: str) -> str:
        wanted = set(words_of(asked))
        saying = [row for row in self.question.rows if wanted & set(words_of(self.catalog.text(row)))]
        if not saying or len(saying) == len(self.question.rows):
            return f"The catalogue doesn't say which is better for “{asked}”. "
        speak = "speaks" if len(saying) == 1 else "speak"
        return f"Only {listed([self._named(row) for row in saying])} {speak} of “{asked}”. "

    def _extreme(self) -> Answer:
        name = self.question.attribute
        priced = [] if name is None else [(row, self.catalog.attributes[name][row]) for row in self.question.rows]
        known = [(row, value) for row, value in priced if value is not None]
        if not known:
            return Answer("The catalogue doesn't say: none of these has a price.")
        dearest = self.question.low is not None
        row, value = (max if dearest else min)(known, key=lambda pair: pair[1])
        return Answer(
            f"The {'dearest' if dearest else 'cheapest'} of these is {self._named(row)}, at {format_value(value)}."
        )

    # Words of the catalogue

    def _place(self, row: int) -> str:
        return str(self.places[row]) if row in self.places else ""

    def _title(self, row: int) -> str:
        return cut(self.catalog.titles[row] or self.catalog.item_ids[row], _CELL)

    def _named(self, row: int) -> str:
        place = f"Card {self.places[row]}, " if row in self.places else ""
        return f"{place}‹{self._title(row)}›"

    def _value(self, row: int, name: str) -> str:
        value = self.catalog.attributes[name][row]
        return "" if value is None else format_value(value)

    def _values(self, row: int) -> dict[str, str]:
        """Title and attributes of a card that it has."""
        found = {"title": self.catalog.titles[row]}
        found |= {name: self._value(row, name) for name in self.words.columns if name != "title"}
        return {name: value for name, value in found.items() if value}


def common_kinds(catalog: Catalog, words: CatalogWords) -> list[str]:
    """The kinds that most items are of, narrower ones of a list first: "Tents" rather than "Outdoor"."""
    if not words.kinds:
        return []
    values = filter(None, catalog.attributes[words.kinds[0]].to_list())
    return commonest((value if isinstance(value, str) else value[-1] for value in values), KINDS_NAMED)


def _singular(name: str) -> str:
    return name[:-3] + "y" if name.endswith("ies") else name
