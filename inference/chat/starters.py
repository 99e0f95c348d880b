"""What a person may say next, as words to press: made from the catalogue, and read by the same rules as typed ones.

starters(conversation)      # ["coffee beans under 12", "the cheapest mugs & cups", "something by Casa Lenta", ...]
follow_ups(conversation)    # ["something else", "the cheapest", ...] once something was asked for
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import polars as pl

from genrec.inference.chat.catalog_words import CatalogWords, words_of_catalog
from genrec.inference.chat.conversation import Conversation
from genrec.inference.chat.facts import common_kinds
from genrec.inference.chat.state import ConversationState
from genrec.inference.chat.understanding import RulesReader
from genrec.semtok.catalog import Catalog

_SHOWN = 4


def starters(conversation: Conversation) -> list[str]:
    """Words to begin with: kinds of items that many are of, a limit on the price, a brand."""
    return list(_starters(conversation.recommender.catalog))


@lru_cache(maxsize=8)
def _starters(catalog: Catalog) -> tuple[str, ...]:
    words = words_of_catalog(catalog)
    kinds = [kind.lower() for kind in common_kinds(catalog, words)]
    limit = None if not kinds or words.price is None else _limit(catalog, words, words.price)
    said = [f"{kinds[0]} under {limit}" if limit is not None else kinds[0]] if kinds else []
    if len(kinds) > 1:
        said.append(f"the cheapest {kinds[1]}" if words.price else kinds[1])
    names = [catalog.attributes[name].drop_nulls().value_counts(sort=True) for name in words.names]
    said += [f"something by {brands[0, 0]}" for brands in names[:1] if len(brands)]
    said += kinds[2:4]
    readings = [(text, RulesReader(catalog).read(text, ConversationState())) for text in said]
    found = [text for text, reading in readings if reading.command is None and not reading.asks]
    return (*found[: _SHOWN - 1], "what can I ask?")


def _limit(catalog: Catalog, words: CatalogWords, price: str) -> int | None:
    """A round price that half of the items of the commonest kind are below."""
    kind = common_kinds(catalog, words)[0]
    column = catalog.attributes[words.kinds[0]]
    has = column.list.contains(kind) if isinstance(column.dtype, pl.List) else column == kind
    median = catalog.attributes.filter(has)[price].median()
    if not isinstance(median, int | float) or median <= 0:
        return None
    step = 1 if median < 10 else 5 if median < 100 else 50
    return step * ceil(median / step)


def follow_ups(conversation: Conversation) -> list[str]:
    """Words that go on from the cards; none where nothing was said yet, or nothing is shown."""
    state = conversation.state
    if not state.shown or not (state.wish or state.history or state.where or state.order):
        return []
    said = ["something else"]
    if words_of_catalog(conversation.recommender.catalog).price is not None and state.order is None:
        said.append("the cheapest")
    if len(state.shown) > 1:
        said.append("compare the first two")
    return [*said, "why the first?"]
