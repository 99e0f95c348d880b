"""`ChatSession`: one person at the web page of `genrec chat --web`, and the filters that the page offers.

With a second run, the first of those in view leads: it hears what is said, and the other answers the same state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import polars as pl

from genrec.inference.chat.catalog_words import flat
from genrec.inference.chat.conversation import Card, Conversation, ConversationState, Reply
from genrec.inference.chat.state import Speaker, say_conditions
from genrec.inference.text_search import whole_characters
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError

LONGEST_TEXT = 2000  # characters that the page takes at once
FOUND = 8  # titles that a search for the history offers
_KEPT_TURNS = 100
_MOST_CHOICES = 2000
_MOST_FIELDS = 4


@dataclass(frozen=True)
class Turn:
    """A line of the conversation."""

    # the person's words, something the person did with a button, an answer, or what went wrong
    who: Literal["you", "did", "answer", "problem"]
    text: str
    spoken_by: Speaker | None = None  # who wrote an answer
    note: str = ""  # what was understood
    table: tuple[tuple[str, ...], ...] = ()  # of a comparison, rows of cells, the heading first


@dataclass(frozen=True)
class RangeField:
    """A numeric attribute with the least and the largest value in the catalogue."""

    name: str
    least: float
    most: float


@dataclass(frozen=True)
class ChoiceField:
    """An attribute of text whose values repeat, with how many items have each."""

    name: str
    counts: Mapping[str, int]


@lru_cache(maxsize=8)
def filter_fields(catalog: Catalog) -> tuple[RangeField | ChoiceField, ...]:
    """The attributes that are worth a control: numbers, and text with 2 to 2,000 values that repeat."""
    fields: list[RangeField | ChoiceField] = []
    for column in catalog.attributes.get_columns():
        filled = column.drop_nulls()
        if column.dtype.is_numeric() and filled.n_unique() > 1:
            fields.append(RangeField(column.name, float(filled.min()), float(filled.max())))  # type: ignore[arg-type]
        elif column.dtype in (pl.String, pl.List(pl.String)):
            values = flat(filled)
            # A name of our own: polars calls the other column "count", as the attribute may be called too.
            counts = dict(values.drop_nulls().alias("value").value_counts().sort("value").iter_rows())
            if 2 <= len(counts) <= _MOST_CHOICES and 2 * len(values) >= 3 * len(counts):
                fields.append(ChoiceField(column.name, counts))
    fields.sort(key=lambda field: isinstance(field, ChoiceField))  # numbers first
    return tuple(fields[:_MOST_FIELDS])


def range_of(condition: Any) -> tuple[float | None, float | None]:
    """The ends that a condition on a number sets, as the page shows them."""
    if isinstance(condition, tuple) and len(condition) == 2:
        return condition
    return (condition, condition) if isinstance(condition, int | float) else (None, None)


def choice_of(condition: Any) -> str:
    """The text that stands for a condition on text in its control: the value, or several with commas."""
    if condition is None or isinstance(condition, str):
        return condition or ""
    return ", ".join(sorted(map(str, condition)))


def where_from_form(catalog: Catalog, form: Mapping[str, str], where: Mapping[str, Any]) -> dict[str, Any]:
    """`where` with what the controls say; conditions that no control was changed for stay as they are. Raises
    InputError where a limit is no number, or a value is none of the catalogue's.
    """
    new = dict(where)
    for field in filter_fields(catalog):
        old = where.get(field.name)
        if isinstance(field, RangeField):
            ends = _number(form, f"low:{field.name}"), _number(form, f"high:{field.name}")
            if ends == range_of(old):
                continue
            new.pop(field.name, None)
            if ends != (None, None):
                new[field.name] = ends
        else:
            value = form.get(f"is:{field.name}", "")
            if value == choice_of(old):
                continue
            if value and value not in field.counts:
                raise InputError(f"{field.name}: no {value!r} in the catalogue")
            new.pop(field.name, None)
            if value:
                new[field.name] = value
    return new


def _number(form: Mapping[str, str], name: str) -> float | None:
    text = form.get(name, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name.partition(':')[2]}: {text!r} is not a number") from None


class ChatSession:
    """What one browser session sees.

    Args:
        conversations: by the run's name, of this session alone; every run has the same items.

    Attributes:
        view: names of the runs whose cards are shown; the first one leads.
        turns: the lines of the conversation, oldest first.
        writing: the answer that is being written, None when there is none.
        replies: by name, what each run in view last answered.
    """

    def __init__(self, conversations: Mapping[str, Conversation]) -> None:
        self.conversations = dict(conversations)
        self.view = tuple(conversations)
        self.turns: deque[Turn] = deque(maxlen=_KEPT_TURNS)
        self.writing: str | None = None
        self.replies: dict[str, Reply] = {}
        self._begin()

    @property
    def lead(self) -> Conversation:
        """The conversation that hears what is said."""
        return self.conversations[self.view[0]]

    @property
    def state(self) -> ConversationState:
        """What is known of the person."""
        return self.lead.state

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.lead.recommender.catalog

    def title(self, item_id: str) -> str:
        """An item's title, its id where that is empty; raises InputError for an unknown item."""
        return self.catalog.titles[self.catalog.row(item_id)].strip() or item_id

    def act(self, request: Mapping[str, str]) -> Iterator[None]:
        """Do what the browser asks, `request["act"]` with its parameters; yields whenever there is more to show.

        A request that cannot be met becomes a line of the conversation.
        """
        try:
            yield from self._act({name: whole_characters(value) for name, value in request.items()})
        except InputError as error:
            self.writing = None
            self.turns.append(Turn("problem", str(error)))
        yield

    def _act(self, request: Mapping[str, str]) -> Iterator[None]:
        asked, item = request.get("act", ""), request.get("item", "")
        match asked:
            case "say":
                yield from self._say(request.get("text", "").strip())
            case "like" | "add":
                title, refused = self.title(item), tuple(other for other in self.state.refused if other != item)
                self.lead.state = replace(self.state, refused=refused)
                self._did(f"I like {title}", self.lead.like(item))
            case "dislike":
                self._did(f"Not {self.title(item)}", self.lead.dislike(item))
            case "forget":
                self._did(f"Leave out {self.title(item)}", self.lead.forget(item))
            case "allow":
                self._did(f"Show {self.title(item)} again", self.lead.allow(item))
            case "want":
                name, value = request.get("name", ""), request.get("value", "")
                self._did(f"{value} again", self.lead.allow_value(name, value))
            case "unwish":
                self._did("Look for nothing in particular", self.lead.restate(wish=""))
            case "filter":
                self._filter(where_from_form(self.catalog, request, self.state.where))
            case "lift":
                self._filter(
                    {key: condition for key, condition in self.state.where.items() if key != request.get("name")}
                )
            case "put_back":
                name = request.get("name", "")
                self._did(f"Keep {name}", self.lead.put_back(name))
            case "reset":
                self._begin()
            case "again":
                self._did("From the beginning of the list", self.lead.restate(passed=()))
            case "view":
                self._look_at(request.get("run", self.view[0]))
            case _:
                raise InputError(f"the page cannot {asked!r}")

    def _say(self, text: str) -> Iterator[None]:
        if not text:
            return
        if len(text) > LONGEST_TEXT:
            raise InputError(f"{len(text):,} characters; at most {LONGEST_TEXT:,} at once")
        self.turns.append(Turn("you", text))
        written = self.writing = ""
        yield
        for piece in self.lead.stream(text):
            if isinstance(piece, Reply):
                self.writing = None
                self._answer(piece)
            else:
                written += piece
                self.writing = written
                yield

    def _begin(self) -> None:
        """Forget everything, and show what people begin with."""
        self.lead.reset()
        self.turns.clear()
        self._answer(self.lead.set_history(()), note=False)

    def _did(self, what: str, reply: Reply) -> None:
        """Something that was done with a button, which says itself what it did."""
        self.turns.append(Turn("did", what))
        self._answer(reply, note=False)

    def _filter(self, where: dict[str, Any]) -> None:
        if where != dict(self.state.where):
            self._did(f"Filters: {say_conditions(where) or 'none'}", self.lead.set_where(where))

    def _answer(self, reply: Reply, *, note: bool = True) -> None:
        self.turns.append(Turn("answer", reply.text, reply.spoken_by, reply.note if note else "", reply.table))
        self.replies = {self.view[0]: reply}
        self._catch_up()

    def _catch_up(self) -> None:
        """Have every run in view answer the leader's state."""
        for name in self.view:
            if name not in self.replies:
                self._follow(name, keep=tuple(self.state.where))

    def _follow(self, name: str, keep: Sequence[str] = ()) -> None:
        conversation = self.conversation(name)
        conversation.state = _followed(self.state, conversation.state)
        self.replies[name] = conversation.set_history(self.state.history, keep)

    def conversation(self, run: str) -> Conversation:
        """A run's conversation; raises InputError where there is no such run."""
        if run not in self.conversations:
            raise InputError(f"no run {run!r} here")
        return self.conversations[run]

    def _look_at(self, run: str) -> None:
        """Show one run, or with "" all of them; what is known of the person goes along."""
        view = tuple(self.conversations) if not run else (run,)
        if view[0] not in self.replies:
            self._follow(view[0])
        self.view = view
        self._catch_up()

    def card(self, run: str, item: str) -> Card:
        """An item as a run last showed it, or outside of any list; raises InputError for an unknown run or item."""
        listed = self.replies[run].cards if run in self.replies else ()
        return next((card for card in listed if card.item_id == item), None) or self.conversation(run).card(item)

    def find(self, text: str) -> tuple[str, ...]:
        """Items whose title has all the words, those that begin with the text first; not those in the history."""
        words = text.casefold().split()
        if not words:
            return ()
        known = set(self.state.history)
        found = []
        for item, title in zip(self.catalog.item_ids, self.catalog.titles, strict=True):
            folded = title.casefold()
            if item not in known and all(word in folded for word in words):
                found.append((not folded.startswith(words[0]), len(title), item))
        return tuple(item for _, _, item in sorted(found)[:FOUND])


def _followed(state: ConversationState, own: ConversationState) -> ConversationState:
    """The leader's state for a run whose own last one is `own`: "something else" goes past that run's own cards too."""
    if not state.passed:
        return state
    gone = own.passed if set(state.passed) <= set(own.passed) else (*own.passed, *own.shown)
    return replace(state, passed=tuple(dict.fromkeys([*state.passed, *gone])))
