"""`TurnJson`: what a language model says of a turn, and `reading_of`: what of it is true, as a `Reading`.

    turn = parse_turn('{"acts": ["wish"], "wish": "coffee beans", ...}')
    reading_of(turn, "kaffeebohnen bitte, unter 15 euro", state, words, catalog)

A model may say anything. Kept is what can be checked: categories and brands that the catalogue has, brands and numbers
that the person said, cards that are on the table, titles that name an item, words that the person typed or the
catalogue knows. The rest is dropped and noted. A turn with an act that asks something changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from rapidfuzz.distance import OSA

from genrec.inference.chat import belongings, limits, values
from genrec.inference.chat.catalog_words import CatalogWords, Meaning, fold, words_of
from genrec.inference.chat.draft import Draft, add_values, content
from genrec.inference.chat.phrases import FILLER
from genrec.inference.chat.prices import numbers_in
from genrec.inference.chat.reading import Act, Command, Kind, Question, Reading
from genrec.inference.chat.state import ConversationState
from genrec.semtok.catalog import Catalog

TurnAct = Literal["thanks"] | Act
_SMALL_TALK: Mapping[str, Kind] = {"greet": "greet", "thanks": "thanks", "help": "help"}
_COMMANDS: Mapping[str, Command] = {"reset": "reset", "more": "more", "unclear": "unclear"}
_ASKS = ("greet", "thanks", "help", "fact", "compare", "why", "out_of_scope")
_Value = Annotated[str, Field(max_length=40)]
_Values = Annotated[list[_Value], Field(max_length=4)]


class TurnError(ValueError):
    """A model's answer is no turn, or nothing of it can be kept."""


class Limit(BaseModel):
    """The least and the most of a column of numbers."""

    model_config = ConfigDict(extra="forbid")
    column: _Value
    least: float | None
    most: float | None


class TurnJson(BaseModel):
    """A turn as a model reads it; every field has to be there, empty where nothing was said."""

    model_config = ConfigDict(extra="forbid")
    acts: list[TurnAct] = Field(min_length=1, max_length=5)
    wish: str = Field(max_length=120)
    adds_to_wish: bool
    categories: _Values
    brands: _Values
    not_wanted: _Values
    wanted_again: _Values
    limits: list[Limit] = Field(max_length=3)
    any_value_of: _Values
    price_change: Literal["cheaper", "dearer"] | None
    sort_by: _Value | None
    largest_first: bool
    cards: list[int] = Field(max_length=10)
    cards_refused: list[int] = Field(max_length=10)
    items_owned: _Values
    asks_about: str = Field(max_length=60)


def parse_turn(answer: str) -> TurnJson:
    """The turn that a model's answer is; raises TurnError where it is no JSON of the schema, but for tabs and ends of
    lines in strings, as some grammars let them.
    """
    try:
        return TurnJson.model_validate(json.loads(answer, strict=False))
    except (ValueError, RecursionError) as error:
        raise TurnError("no JSON of the schema") from error


def reading_of(turn: TurnJson, text: str, state: ConversationState, words: CatalogWords, catalog: Catalog) -> Reading:
    """What can be kept of what a model says; raises TurnError where nothing can."""
    draft = Draft(state, words, catalog)
    asked = next((act for act in turn.acts if act in _ASKS), None)
    if asked is not None:
        _ask(draft, asked, turn, text)
    elif turn.acts[0] in _COMMANDS:
        draft.found.command = _COMMANDS[turn.acts[0]]
    else:
        _change(draft, turn, text)
        if draft.found.acts == ("unclear",):
            raise TurnError("nothing of it can be kept")
    draft.found.notes = list(dict.fromkeys(draft.found.notes))
    return draft.found


# Questions


def _ask(draft: Draft, act: str, turn: TurnJson, text: str) -> None:
    """A question, about cards that are on the table; where none is named, the one spoken of last, or all."""
    state, found = draft.state, draft.found
    rows = tuple(_rows(draft, turn.cards))
    shown = tuple(draft.catalog.row(item_id) for item_id in state.shown)
    column = next((name for name in draft.words.columns if fold(name) == fold(turn.asks_about)), None)
    about = _said(turn.asks_about, text)
    if act == "why":
        found.command = "why"
        found.why = draft.catalog.item_ids[rows[0]] if rows else next(iter(state.shown), None)
    elif act in _SMALL_TALK:
        found.question = Question(_SMALL_TALK[act])
    elif act == "out_of_scope":
        found.question = Question("off_topic", asked=about or "that")
    elif act == "compare" and turn.sort_by is not None and turn.sort_by == draft.words.price:
        found.question = Question("extreme", rows or shown, turn.sort_by, low=0.0 if turn.largest_first else None)
    elif act == "compare":
        found.question = Question("compare", rows if len(rows) > 1 else shown, asked=about)
    else:
        focus = (draft.catalog.row(state.focus),) if state.focus in state.shown else shown
        found.question = _fact(rows or focus, column, about)


def _fact(rows: tuple[int, ...], column: str | None, about: str) -> Question:
    if column is not None:
        return Question("fact", rows, column, asked=column)
    return Question("is_it", rows, asked=about) if about else Question("tell", rows[:1])


def _rows(draft: Draft, cards: Sequence[int]) -> list[int]:
    """The rows of cards by their numbers."""
    return draft.shown_rows([card - 1 for card in dict.fromkeys(cards)])


# Changes


def _change(draft: Draft, turn: TurnJson, text: str) -> None:
    found = draft.found
    if "accept" in turn.acts:
        belongings.like(draft, _rows(draft, turn.cards), "like")
        for item in turn.items_owned:
            if not (_said(item, text) and belongings.own(draft, item, strong=True)):
                _drop(draft, [item])
    belongings.never(draft, _rows(draft, turn.cards_refused))
    for value in turn.not_wanted:
        _refuse(draft, value)
    for value in turn.wanted_again:
        values.allow(draft, value)
    for name in turn.any_value_of:
        if name in draft.words.columns:
            found.lifted.append(name)
            draft.note(f"any {fold(name)}")
    _conditions(draft, turn, text)
    if turn.sort_by in draft.words.numeric_columns:
        assert turn.sort_by is not None
        found.order = (turn.sort_by, turn.largest_first)
        draft.note(f"sorted by {turn.sort_by}, {'highest' if turn.largest_first else 'lowest'} first")
    if "wish" in turn.acts:
        found.joins = turn.adds_to_wish
        draft.wishes.append(_known_words(draft, turn.wish, text))
        if not turn.wish.strip():
            found.wish = ""  # whatever goes with the history
    values.finish(draft)


def _conditions(draft: Draft, turn: TurnJson, text: str) -> None:
    """Categories and brands that there are, and limits that were said."""
    for asked, names in ((turn.categories, draft.words.kinds), (turn.brands, draft.words.names)):
        for value in asked:
            meaning = _value(draft.words, value, names)
            if meaning is None or (names == draft.words.names and not _said(value, text)):
                _drop(draft, [value])
            else:
                values.want(draft, meaning)
    said = numbers_in(text)
    for limit in turn.limits:
        ends = [end if end in said else None for end in (limit.least, limit.most)]
        _drop(draft, [f"{end:g}" for end in (limit.least, limit.most) if end is not None and end not in said])
        if limit.column == draft.words.price:
            limits.limit(draft, ends[0], ends[1])
        elif limit.column in draft.words.numeric_columns and ends != [None, None]:
            draft.found.where[limit.column] = (ends[0], ends[1])
    if turn.price_change is not None and not turn.limits:
        draft.relation = "below" if turn.price_change == "cheaper" else "above"
        draft.compared = _rows(draft, turn.cards)
        limits.compare_prices(draft)


def _refuse(draft: Draft, value: str) -> None:
    meaning = _value(draft.words, value, (*draft.words.names, *draft.words.kinds))
    if meaning is None and draft.words.titles_with(content(value)).any():
        meaning = Meaning("title", (content(value).lower(),))
    if meaning is None:
        draft.fail("refuse", f"no item here is called '{value}', so there is nothing to leave out")
    else:
        add_values(draft.found.unwanted, meaning)
        draft.note(f"not {' or '.join(meaning.values)}")


def _value(words: CatalogWords, value: str, names: Iterable[str]) -> Meaning | None:
    """What the whole of a text names in some columns."""
    folded = words_of(value)
    for match in words.matches(folded):
        if match.start == 0 and match.end == len(folded):
            return next((meaning for meaning in match.meanings if meaning.attribute in set(names)), None)
    return None


def _said(value: str, text: str) -> str:
    """A value, where some word of it that says something was typed, up to a typo; else nothing."""
    typed = [word for word in words_of(text) if word not in FILLER]
    telling = [word for word in words_of(value) if word not in FILLER]
    return value if any(_alike(word, other) for word in telling for other in typed) else ""


def _alike(word: str, other: str) -> bool:
    return word == other or (len(word) > 3 and len(other) > 3 and OSA.distance(word, other, score_cutoff=2) <= 2)


def _known_words(draft: Draft, wish: str, text: str) -> str:
    """The words of a wish that the person typed or that the catalogue has."""
    typed = set(words_of(text)) | set(words_of(draft.state.wish))
    kept: list[str] = []
    dropped: list[str] = []
    for word in wish.split():
        folded = words_of(word)
        known = folded and all(part in typed or part in draft.words.vocabulary for part in folded)
        (kept if known else dropped).append(word)
    _drop(draft, dropped)
    return " ".join(kept)


def _drop(draft: Draft, values: Sequence[Any]) -> None:
    if values:
        draft.note(f"left out, since it was not said or isn't here: {', '.join(map(str, values))}")
