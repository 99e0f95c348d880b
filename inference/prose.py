"""Who writes the sentences beside the cards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from inference.conversation_state import Card, ConversationState, Speaker


@dataclass(frozen=True)
class Facts:
    """What a writer of prose may speak about.

    Attributes:
        asked: what the person typed.
        note: what was understood of it.
        cards: the items on the table.
        state: the state after the turn.
        history_titles: titles of the items in the history, oldest first.
    """

    asked: str
    note: str
    cards: tuple[Card, ...]
    state: ConversationState
    history_titles: tuple[str, ...]


class Prose(Protocol):
    """Writes the lead of a reply."""

    speaker: Speaker

    def stream(self, facts: Facts) -> Iterator[str]:
        """Pieces of text, in order."""
        ...
