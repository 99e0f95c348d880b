"""What the chat page shows, as JSON: a `ChatSession` in, plain dicts out (`page.js` draws them, every word as text).

shop_view({"demo": conversation})       # once: the runs, the filters, the columns of the catalogue that are drawn
session_view(session)                   # after every turn: the conversation, the cards, what is known of the person
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from genrec.decoding.vocabulary import spell
from genrec.inference.chat.catalog_words import IMAGES, CatalogWords, words_of_catalog
from genrec.inference.chat.conversation import Conversation
from genrec.inference.chat.session import (
    LONGEST_TEXT,
    ChatSession,
    RangeField,
    Turn,
    choice_of,
    filter_fields,
    range_of,
)
from genrec.inference.chat.starters import follow_ups, starters
from genrec.inference.chat.state import Card, say_conditions
from genrec.semtok.catalog import Catalog

SPEAKERS = {  # templates, which only repeat the catalogue, go unmarked
    "model": "written by the run's own model",
    "server": "written by the model server",
}
_LINE = 36  # characters of the line below a title
_PATH = 2  # kinds that are a way from the wide to the narrow; more are a list of equals
_BRANCHES = 9  # codes drawn at each level of the trie
_PICTURE = re.compile(r"(?:https://[^\s]+|data:image/[\w.+-]+;base64,[\w+/=]+)\Z")


def shop_view(conversations: Mapping[str, Conversation]) -> dict[str, Any]:
    """What is the same for everybody: the runs' names, the size of the catalogue, the controls of the filters."""
    catalog = next(iter(conversations.values())).recommender.catalog
    fields: list[dict[str, Any]] = []
    for field in filter_fields(catalog):
        if isinstance(field, RangeField):
            fields.append({"name": field.name, "least": field.least, "most": field.most})
        elif field.name.lower() not in IMAGES:
            fields.append({"name": field.name, "counts": list(field.counts.items())})
    return {
        "runs": list(conversations), "items": len(catalog), "fields": fields, "longest": LONGEST_TEXT,
        "speakers": SPEAKERS,
    }  # fmt: skip


def session_view(session: ChatSession, *, images: bool = False) -> dict[str, Any]:
    """All that one person sees, after a turn.

    Args:
        images: show the pictures that a column of the catalogue names.
    """
    cards = _Cards(session.catalog, images=images)
    return {
        "view": list(session.view),
        "turns": [_turn(turn) for turn in session.turns],
        "columns": [_column(session, name, cards) for name in session.view],
        "known": _known(session),
        "where": _where(session),
        "suggestions": follow_ups(session.lead) or starters(session.lead),
        "state": session.state.to_json(),
    }


def details_view(session: ChatSession, run: str, item: str, level: int | None, *, images: bool) -> dict[str, Any]:
    """All of a card, with its codes and the trie around them; raises InputError for an unknown run, item or level.

    Args:
        level: codes that the neighbours share with it; None: all but the last.
    """
    talk, card, drawn = session.conversation(run), session.card(run, item), _Cards(session.catalog, images=images)
    level = max(1, talk.recommender.semantic_ids.codes.shape[1] - 1) if level is None else level
    hidden = {drawn.words.price, drawn.currency, drawn.image, "title"}
    facts = [[_named(name), value] for name, value in card.attributes.items() if name not in hidden]
    return {
        **drawn.card(card, run), "facts": facts, "told": talk.why(item), "levels": _levels(talk, item), "level": level,
        "neighbours": [{"title": _title(other), "codes": other.semantic_id} for other in talk.neighbours(item, level)],
    }  # fmt: skip


def _levels(talk: Conversation, item: str) -> list[dict[str, Any]]:
    """At each level the codes that may follow the item's own ones, with the items below each: those near its own."""
    codes, catalog = talk.recommender.semantic_ids.codes, talk.recommender.catalog
    levels, below = [], np.flatnonzero(~catalog.withdrawn)
    for depth, own in enumerate(codes[catalog.row(item)]):
        found, counts = np.unique(codes[below, depth], return_counts=True)
        first = max(0, min(int(np.searchsorted(found, own)) - _BRANCHES // 2, len(found) - _BRANCHES))
        near = list(zip(found.tolist(), counts.tolist(), strict=True))[first : first + _BRANCHES]
        drawn = [{"code": spell(depth, code), "items": count, "own": code == int(own)} for code, count in near]
        levels.append({"codes": drawn, "before": first, "after": len(found) - first - len(near)})
        below = below[codes[below, depth] == own]
    return levels


def picture_origins(catalog: Catalog) -> list[str]:
    """The sites from which the catalogue's pictures come, for the page's Content-Security-Policy."""
    column = _image_column(catalog)
    if column is None:
        return []
    urls = (_picture(value) for value in catalog.attributes[column].unique().to_list())
    sites = {f"https://{urlsplit(url).netloc}" for url in urls if url and url.startswith("https:")}
    return sorted(site for site in sites if re.fullmatch(r"https://[\w.:-]+", site))


class _Cards:
    """Draws cards of one catalogue."""

    def __init__(self, catalog: Catalog, *, images: bool) -> None:
        self.catalog, self.images = catalog, images
        self.words: CatalogWords = words_of_catalog(catalog)
        columns = catalog.attributes.columns
        self.currency = next((name for name in columns if name.lower() == "currency"), None)
        self.image = _image_column(catalog)

    def card(self, card: Card, run: str) -> dict[str, Any]:
        """An item as the page draws it."""
        price = "" if self.words.price is None else card.attributes.get(self.words.price, "")
        score = None if math.isnan(card.score) else round(card.score, 3)
        kinds = self._kinds(card)
        kind = "" if not kinds else ", ".join(kinds) if len(kinds) > _PATH else kinds[-1]
        return {
            "id": card.item_id, "run": run, "title": _title(card), "price": f"{price} {self._currency(card)}".strip(),
            "line": self._line(card), "kind": kind, "reason": card.reason,
            "image": self._image(card), "codes": card.semantic_id, "score": score,
        }  # fmt: skip

    def _currency(self, card: Card) -> str:
        """A column `currency`, or the end of a name such as `price_eur`; what the data doesn't say is not guessed."""
        if self.currency is not None:
            return card.attributes.get(self.currency, "")
        ending = re.fullmatch(r"price[_ ]([a-z]{3})", (self.words.price or "").lower())
        return ending[1].upper() if ending else ""

    def _kinds(self, card: Card) -> list[str]:
        if not self.words.kinds:
            return []
        value = self.catalog.attributes[self.words.kinds[0]][self.catalog.row(card.item_id)]
        return [] if value is None else [value] if isinstance(value, str) else value.to_list()

    def _line(self, card: Card) -> str:
        """What stands below the title: brand, kind, year and the like, as far as they are short."""
        parts = [card.attributes[name] for name in self.words.names if name in card.attributes]
        kinds, left = self._kinds(card), _LINE - len(" · ".join(parts))
        if len(kinds) <= _PATH and len(", ".join(kinds)) > left:
            kinds = kinds[-1:]
        while len(kinds) > 1 and len(", ".join(kinds)) > left:
            kinds = kinds[:-1]
        parts += [", ".join(kinds)] if kinds else []
        told = {*self.words.names, *self.words.kinds[:1], self.words.price, self.currency, self.image, "title"}
        for name, value in card.attributes.items():
            if name not in told and len(value) <= _LINE // 2:
                parts.append(value if name.lower() == "year" else f"{_named(name)} {value}")
        return " · ".join(parts[:3])

    def _image(self, card: Card) -> str:
        if not self.images or self.image is None:
            return ""
        return _picture(self.catalog.attributes[self.image][self.catalog.row(card.item_id)])


def _image_column(catalog: Catalog) -> str | None:
    return next((name for name in catalog.attributes.columns if name.lower() in IMAGES), None)


def _picture(value: Any) -> str:
    """The address of a picture, or "" where a value is none: https and data alone, the first of several."""
    if isinstance(value, pl.Series | list):
        value = value[0] if len(value) else None
    return value if isinstance(value, str) and _PICTURE.match(value) else ""


def _title(card: Card) -> str:
    return card.title.strip() or card.item_id


def _named(column: str) -> str:
    return column.replace("_", " ")


def _turn(turn: Turn) -> dict[str, Any]:
    by = turn.spoken_by if turn.spoken_by in SPEAKERS else None
    return {"who": turn.who, "text": turn.text, "note": turn.note, "table": turn.table, "by": by}


def _column(session: ChatSession, name: str, drawn: _Cards) -> dict[str, Any]:
    """One run's cards; beside another run's, each says where it stands there."""
    cards = []
    for card in session.replies[name].cards:
        elsewhere = [_standing(session, card, other) for other in session.view if other != name]
        cards.append({**drawn.card(card, name), "elsewhere": elsewhere})
    return {"run": name, "cards": cards, "empty": None if cards else _ways_out(session)}


def _standing(session: ChatSession, item: Card, run: str) -> str:
    ids = [other.item_id for other in session.replies[run].cards]
    return f"{run}: place {ids.index(item.item_id) + 1}" if item.item_id in ids else f"{run}: not shown"


def _ways_out(session: ChatSession) -> list[dict[str, str]]:
    """Buttons for an empty table: each takes back one of the things that leave nothing to show."""
    state = session.state
    ways: list[dict[str, str]] = [{"act": "again", "label": "Show the first ones again"}] if state.passed else []
    for name, condition in state.where.items():
        ways.append({"act": "lift", "name": name, "label": f"Without {say_conditions({name: condition})}"})
    for name, values in state.unwanted.items():
        ways += [{"act": "want", "name": name, "value": value, "label": f"Allow {value}"} for value in values]
    if state.wish:
        ways.append({"act": "unwish", "label": f"Forget “{state.wish}”"})
    return [*ways[:5], {"act": "reset", "label": "Start again"}]


def _known(session: ChatSession) -> dict[str, list[dict[str, str]]]:
    """What is known of the person, each part with the request that takes it back."""
    state, title = session.state, session.title

    def part(text: str, about: str, act: str, **named: str) -> dict[str, str]:
        return {"text": text, "act": act, **named, "about": about}

    return {
        "having": [part(title(item), f"remove {title(item)}", "forget", item=item) for item in state.history],
        "wish": [part(state.wish, "look for nothing in particular", "unwish")] if state.wish else [],
        "where": [
            part(say_conditions({name: condition}), f"lift the condition on {name}", "lift", name=name)
            for name, condition in state.where.items()
        ],
        "refused": [
            *(part(title(item), f"show {title(item)} again", "allow", item=item) for item in state.refused),
            *(
                part(f"{name}: {value}", f"allow {value} again", "want", name=name, value=value)
                for name, values in state.unwanted.items()
                for value in values
            ),
        ],
        "relaxed": [
            part(say_conditions({name: condition}), f"keep the condition on {name}", "put_back", name=name)
            for name, condition in state.relaxed.items()
        ],
    }


def _where(session: ChatSession) -> dict[str, dict[str, Any]]:
    """What the controls of the filters show."""
    shown: dict[str, dict[str, Any]] = {}
    for field in filter_fields(session.catalog):
        condition = session.state.where.get(field.name)
        if isinstance(field, RangeField):
            low, high = range_of(condition)
            shown[field.name] = {"low": low, "high": high}
        else:
            shown[field.name] = {"is": choice_of(condition)}
    return shown
