"""What a person has or likes: cards by their places, and items by their titles, as rules read them into a `Draft`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from genrec.inference.chat.catalog_words import WORD
from genrec.inference.chat.draft import Draft, content
from genrec.inference.chat.phrases import OFTEN

SURE = 0.7  # share of the words' weight that a title must hold to be what "I have ..." means
COVERED = 0.5  # share of a title's own weight that must be said, but where the verb says that it is a thing


def like(draft: Draft, rows: Sequence[int], how: str) -> None:
    """Add items to the history; `how` is said in the notes."""
    for row in rows:
        draft.found.liked.append(draft.catalog.item_ids[row])
        draft.note(f"{how} {draft.title(row)}")


def never(draft: Draft, rows: Sequence[int]) -> None:
    """Refuse cards for good."""
    for row in rows:
        draft.found.refused.append(draft.catalog.item_ids[row])
        draft.note(f"never again {draft.title(row)}")


def own(draft: Draft, text: str, *, strong: bool, sure: float = SURE, seek: bool = False) -> bool:
    """Add the items whose titles a text names; False where it names none for sure.

    Args:
        strong: the verb says that it is a thing, so that a few words of its title are enough.
        sure: share of the words' weight that a title must hold.
        seek: look for items like it.
    """
    text = OFTEN.sub("", text)
    for pieces in ([text], re.split(r",\s+|\s+and\s+", text)):
        found = [_named(draft, piece, strong=strong, sure=sure) for piece in pieces]
        rows = [row for row in found if row is not None]
        if len(rows) == len(pieces):
            for row in rows:
                like(draft, [row], "like" if seek else "you have")
                if seek:
                    draft.wishes.append(draft.catalog.titles[row])
            return True
    return False


def _named(draft: Draft, text: str, *, strong: bool, sure: float) -> int | None:
    named = content(text)
    best = next(iter(draft.words.find_titles(named)), None)
    if best is None or best.of_text < sure or (best.of_title < COVERED and not strong):
        return None
    if len(WORD.findall(named)) < 2 and best.of_title < COVERED:
        return None  # one word of a long title names a kind of thing
    return best.row
