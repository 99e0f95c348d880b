"""`Reading`: what one turn means, and `Reader`: who finds it out. Rules (`chat.understanding`) or a language model.

    reading = RulesReader(catalog).read("something like the second, but cheaper", state)
    reading.acts                                          # ("wish", "refine", "accept")
    reading.liked, reading.where, reading.notes

Values are the catalogue's own, items are catalogue ids: whoever reads, nothing else gets into a `Reading`. A turn that
asks something (`Reading.asks`) has a question, or is a why, and nothing that changes the history, the wish or the
conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from genrec.inference.chat.state import ConversationState

Act = Literal[
    "greet", "help", "wish", "refine", "refuse", "accept", "fact", "compare", "sort", "why", "more", "reset",
    "out_of_scope", "unclear",
]  # fmt: skip
Command = Literal["more", "why", "reset", "unclear"]
Kind = Literal["greet", "thanks", "acknowledge", "help", "off_topic", "fact", "is_it", "tell", "compare", "extreme"]
ACT_OF: Mapping[Kind, Act] = {
    "greet": "greet", "thanks": "greet", "acknowledge": "greet", "help": "help", "off_topic": "out_of_scope",
    "fact": "fact", "is_it": "fact", "tell": "fact", "compare": "compare", "extreme": "compare",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What a turn asks."""

    # what sort of question: small talk (`greet`, `thanks`, `acknowledge`, `help`), what no catalogue tells
    # (`off_topic`), a value of cards (`fact`), whether a card is something (`is_it`), all of a card (`tell`), how cards
    # differ (`compare`), the cheapest or dearest of them (`extreme`)
    kind: Kind
    rows: tuple[int, ...] = ()  # the cards that it is about, as catalogue rows
    attribute: str | None = None  # of a fact, the column; None where the catalogue has no such column
    asked: str = ""  # the words that matter: a purpose, a property, the topic
    # of `is_it`, the least price that was asked about; of `extreme`, not None asks for the dearest
    low: float | None = None
    high: float | None = None  # of `is_it`, the most


@dataclass
class Reading:
    """What one turn asks for."""

    # go past the cards on the table, tell why, begin again, or a turn of which nothing was understood
    command: Command | None = None
    question: Question | None = None  # what is asked; it changes nothing
    order: tuple[str, bool] | None = None  # a column and whether its largest come first; None: as before
    wish: str | None = None  # new words to look for; None: as before
    joins: bool = False  # whether the wish adds to the one before
    where: dict[str, Any] = field(default_factory=dict)  # conditions to set, by attribute
    lifted: list[str] = field(default_factory=list)  # attributes whose condition falls
    liked: list[str] = field(default_factory=list)  # item ids to add to the history
    refused: list[str] = field(default_factory=list)  # item ids never to show again
    unwanted: dict[str, list[str]] = field(default_factory=dict)  # attribute to values never to show again
    allowed: dict[str, list[str]] = field(default_factory=dict)  # attribute to values that may be shown again
    why: str | None = None  # the item to explain
    # acts that were understood and can't be done: a price limit where there are no prices
    vain: list[Act] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was understood, and what was not

    @property
    def asks(self) -> bool:
        """Whether it changes nothing: a question, a why, or nothing that was understood."""
        return self.question is not None or self.command in ("why", "unclear")

    @property
    def changes(self) -> bool:
        """Whether it asks for anything beside a wish."""
        return any((
            self.where, self.lifted, self.liked, self.refused, self.unwanted, self.allowed, self.order is not None,
        ))  # fmt: skip

    @property
    def acts(self) -> tuple[Act, ...]:
        """What the person does with this turn; several acts in the order of `Act`."""
        if self.question is not None:
            return (ACT_OF[self.question.kind],)
        if self.command is not None:
            return (self.command,)
        found: dict[Act, bool] = {
            "wish": self.wish is not None,
            "refine": bool(self.where or self.lifted or self.allowed),
            "refuse": bool(self.refused or self.unwanted),
            "accept": bool(self.liked),
            "sort": self.order is not None,
        }
        return tuple(act for act, is_so in found.items() if is_so or act in self.vain) or ("unclear",)


class Reader(Protocol):
    """Reads turns."""

    def read(self, text: str, state: ConversationState) -> Reading:
        """What a turn means, said with these cards on the table (`state.shown`); it changes nothing itself."""
        ...


def merge_unwanted(
    before: Mapping[str, Sequence[str]], added: Mapping[str, Sequence[str]], taken: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """The refused values after a turn; attributes without any are left out."""
    merged = {}
    for attribute in dict.fromkeys([*before, *added]):
        values = dict.fromkeys([*before.get(attribute, ()), *added.get(attribute, ())])
        kept = tuple(value for value in values if value not in taken.get(attribute, ()))
        if kept:
            merged[attribute] = kept
    return merged
