"""`Conversation`: talk in, cards out. Every item comes out of constrained decoding.

conversation = Conversation(Recommender.from_pretrained("runs/demo"))
reply = conversation.say("coffee beans under 20, nothing from Everpan")
[card.title for card in reply.cards], reply.note, reply.state
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inference.conversation_state import Card, ConversationState, Reply
from inference.prose import Prose
from inference.recommender import Recommender

__all__ = ["Card", "Conversation", "ConversationState", "Reply"]


class Conversation:
    """A conversation with one person about the items of one run.

    Args:
        recommender: the run; several conversations may share it.
        k: cards a turn.
        prose: who writes the sentences; None: templates over true attributes.
    """

    state: ConversationState

    def __init__(self, recommender: Recommender, *, k: int = 5, prose: Prose | None = None) -> None:
        raise NotImplementedError

    def say(self, text: str) -> Reply:
        """Understand `text`, make the new state, and answer."""
        raise NotImplementedError

    def stream(self, text: str) -> Iterator[str | Reply]:
        """`say`, with the text in pieces as it is written, and the reply at the end."""
        raise NotImplementedError

    def like(self, item_id: str) -> Reply:
        """Put an item into the history."""
        raise NotImplementedError

    def dislike(self, item_id: str) -> Reply:
        """Never show an item again."""
        raise NotImplementedError

    def forget(self, item_id: str) -> Reply:
        """Take an item out of the history."""
        raise NotImplementedError

    def set_where(self, where: Mapping[str, Any]) -> Reply:
        """Replace the conditions; raises InputError for an unknown attribute or a value of the wrong type."""
        raise NotImplementedError

    def set_history(self, item_ids: Sequence[str]) -> Reply:
        """Replace the history; raises InputError naming an unknown id."""
        raise NotImplementedError

    def reset(self) -> Reply:
        """Begin again with an empty state."""
        raise NotImplementedError

    def why(self, item_id: str) -> str:
        """Why an item is shown, in full: true attributes, what it shares with the history, codes in common."""
        raise NotImplementedError

    def neighbours(self, item_id: str, level: int) -> list[Card]:
        """Other items under the same first `level` codes."""
        raise NotImplementedError
