"""What a conversation is made of: the state that every turn makes anew, the cards it shows, and a turn's reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from genrec.inference.chat.prices import say_price

Speaker = Literal["template", "model", "server"]


@dataclass(frozen=True)
class ConversationState:
    """All that a conversation knows. A turn makes a new one and never changes the old one."""

    history: tuple[str, ...] = ()  # item ids, oldest first: what the person has or likes
    wish: str = ""  # words of what is looked for now; empty: whatever the history suggests
    refused: tuple[str, ...] = ()  # item ids that are never shown again
    # conditions that items must meet, as `genrec.decoding.filters.WhereFilters` takes them
    where: Mapping[str, Any] = field(default_factory=dict)
    # attribute to the values that were refused; under `title`, words that no title may hold
    unwanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shown: tuple[str, ...] = ()  # the cards on the table, in order
    passed: tuple[str, ...] = ()  # items that "something else" went past; they may return when the wish changes
    # a column and whether its largest come first, to sort what was found by; None: by how well it fits
    order: tuple[str, bool] | None = None
    focus: str = ""  # the item that was spoken of last, which "it" means
    # conditions that were let go because nothing met them all, as `where` has them
    relaxed: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The state as indented JSON, for display."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class Card:
    """An item as it is shown. Every word but `reason` is the catalogue's own."""

    item_id: str
    title: str
    attributes: dict[str, str]  # those that the item has, formatted
    reason: str  # why it is here, in one line
    semantic_id: str  # its codes as the model spells them, such as `<a_12><b_3><c_7>`
    # what the order went by: a log-probability, or the sum of reciprocal ranks where wish and history were joined; nan
    # outside of a ranked list
    score: float


@dataclass(frozen=True)
class Reply:
    """The answer to one turn."""

    text: str  # what is said beside the cards
    # who wrote it: a template over true attributes, the run's own language model, or a server with it
    spoken_by: Speaker
    cards: tuple[Card, ...]  # the items, best first
    state: ConversationState  # the state after the turn
    note: str  # what was understood, in one line
    table: tuple[tuple[str, ...], ...] = ()  # of a comparison, rows of cells, the heading first


def say_conditions(where: Mapping[str, Any]) -> str:
    """Conditions in words: "price up to 20; categories: Nails"; empty where there are none."""
    return "; ".join(
        say_price(name, condition)
        if isinstance(condition, tuple) and len(condition) == 2 and not any(isinstance(end, str) for end in condition)
        else f"{name}: {' or '.join(map(str, as_values(condition)))}"
        for name, condition in where.items()
    )


def as_values(condition: Any) -> tuple[Any, ...]:
    """The values of a condition on text; a single one stands for itself."""
    if condition is None:
        return ()
    return tuple(condition) if isinstance(condition, list | tuple | set | frozenset) else (condition,)
