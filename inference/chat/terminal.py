"""The terminal of `genrec chat RUN`: talk and commands in, streamed text and a table of cards out.

Lines come from a keyboard or a pipe, so that a conversation can be scripted:

    printf 'coffee beans under 20\\n/why 1\\n' | genrec chat runs/demo
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrec.inference.chat.config import ChatConfig
from genrec.inference.chat.conversation import Conversation, Reply
from genrec.inference.chat.model_prose import prose_for
from genrec.inference.chat.model_reader import reader_for
from genrec.inference.chat.state import say_conditions
from genrec.inference.recommender import Recommender
from genrec.semtok.errors import InputError

HELP = """Say what you look for, have, like or refuse: "coffee beans under 20", "no more mascara",
"something like the second, but cheaper", "I bought an oat cleansing balm", "why the first?". Commands:
  /like N, /dislike N          card N joins your history; is never shown again
  /history [add ID | remove N] what you have, oldest first
  /where [NAME=VALUE; ...]     conditions: /where price=5..20; brand=OPI|NYX, none: /where none
  /why N                       every reason for card N
  /codes N [LEVEL]             items that share the first LEVEL codes with card N
  /state                       all that is known of you
  /reset, /quit, /help"""
# What moves the cursor, ends a line or turns the direction of what follows (Unicode's bidirectional controls).
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_DIGITS = 9
_HIDDEN = 60  # characters from which an attribute is too long for the table


class Terminal:
    """One conversation at a terminal."""

    def __init__(self, conversation: Conversation, console: Console) -> None:
        self.conversation, self.console = conversation, console
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda rest: self._print(HELP),
            "like": lambda rest: self._show(self.conversation.like(self._card(rest))),
            "dislike": lambda rest: self._show(self.conversation.dislike(self._card(rest))),
            "why": lambda rest: self._print(self.conversation.why(self._card(rest))),
            "state": lambda rest: self._print(self.conversation.state.to_json()),
            "reset": lambda rest: self._show(self.conversation.reset()),
            "history": self._history,
            "where": self._where,
            "codes": self._codes,
        }

    def run(self, lines: Iterable[str]) -> None:
        """Answer each line, until /quit or the end of the input."""
        self._print("What are you looking for? /help tells what I understand.", "dim")
        for line in lines:
            said = line.strip()
            if said in ("/quit", "/exit"):
                return
            if not said:
                continue
            try:
                if said.startswith("/"):
                    self._command(said[1:])
                else:
                    self._say(said)
            except InputError as error:
                self._print(str(error), "red")

    def _say(self, said: str) -> None:
        for piece in self.conversation.stream(said):
            if isinstance(piece, Reply):
                self.console.print()
                self._table(piece)
            else:
                self.console.print(_plain(piece), end="", soft_wrap=True)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            raise InputError(f"no command /{name}; there are /{', /'.join(self._commands)}, /quit")
        self._commands[name](rest.strip())

    def _history(self, rest: str) -> None:
        action, _, what = rest.partition(" ")
        history = self.conversation.state.history
        if action == "add" and what:
            self._show(self.conversation.set_history([*history, *what.split()]))
        elif action == "remove" and what:
            self._show(self.conversation.forget(_place(what, history, "item", "in your history")))
        elif rest:
            raise InputError("/history, /history add ID, /history remove N")
        else:
            catalog = self.conversation.recommender.catalog
            titles = [
                f"{place}  {item}  {catalog.titles[catalog.row(item)]}" for place, item in enumerate(history, start=1)
            ]
            self._print("\n".join(titles) or "Your history is empty.")

    def _where(self, rest: str) -> None:
        if rest:
            schema = self.conversation.recommender.catalog.attributes.schema
            self._show(self.conversation.set_where(parse_where(rest, schema)))
        else:
            self._print(say_conditions(self.conversation.state.where) or "No conditions.")

    def _codes(self, rest: str) -> None:
        number, _, level = rest.partition(" ")
        depth = _whole(level.strip() or "1")
        if depth is None:
            raise InputError(f"/codes N [LEVEL]: {_cut(level)!r} is no level")
        others = self.conversation.neighbours(self._card(number), depth)
        self._print("\n".join(f"{card.semantic_id}  {card.title}" for card in others) or "No other item is under it.")

    def _card(self, number: str) -> str:
        return _place(number, self.conversation.state.shown, "card", "on the table")

    def _show(self, reply: Reply) -> None:
        self._print(reply.text)
        self._table(reply)

    def _table(self, reply: Reply) -> None:
        self._print(f"[{reply.spoken_by}] {reply.note}", "dim")
        if reply.table:
            self._compared(reply.table)
            return
        if not reply.cards:
            return
        table = Table(box=SIMPLE, pad_edge=False)
        for heading in ("", "item", "facts", "why"):
            table.add_column(heading, overflow="fold")
        for place, card in enumerate(reply.cards, start=1):
            facts = "; ".join(f"{name} {value}" for name, value in card.attributes.items() if len(value) <= _HIDDEN)
            cells = (str(place), card.title, facts, f"{card.reason}\n{card.semantic_id}")
            table.add_row(*map(_plain, cells))
        self.console.print(table)

    def _compared(self, rows: tuple[tuple[str, ...], ...]) -> None:
        heading, *body = rows
        table = Table(box=SIMPLE, pad_edge=False)
        for name in heading:
            table.add_column(_plain(name), overflow="fold")
        for cells in body:
            table.add_row(*map(_plain, cells))
        self.console.print(table)

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(Text(_CONTROL.sub(" ", text), style=style))


def chat(config: ChatConfig) -> None:
    """Talk about a run until the input ends; raises InputError where the run cannot be opened."""
    recommender = Recommender.from_pretrained(config.run, device=config.device, verify=config.verify)
    prose = prose_for(config.run, recommender, server=config.prose, verify=config.verify)
    reader = reader_for(config.reader, recommender.catalog)
    Terminal(Conversation(recommender, k=config.k, prose=prose, reader=reader), Console()).run(_lines())


def parse_where(text: str, schema: Any) -> dict[str, Any]:
    """`price=5..20; brand=OPI|NYX` as conditions; "none" is no conditions.

    Args:
        schema: column name to polars type.

    Raises:
        InputError: a part that is no NAME=VALUE, an unknown name, or a range that is none.
    """
    where: dict[str, Any] = {}
    if text.strip().lower() == "none":
        return where
    for part in text.split(";"):
        name, equals, value = (side.strip() for side in part.partition("="))
        if not equals or not value:
            raise InputError(f"/where: {part.strip()!r} is not NAME=VALUE")
        if name not in schema:
            raise InputError(f"/where: no attribute {name!r}; there are {', '.join(schema) or 'none'}")
        if schema[name].is_numeric():
            low, dots, high = value.partition("..")
            try:
                ends = [float(end) if end.strip() else None for end in (low, high if dots else low)]
            except ValueError:
                raise InputError(f"/where: {name}: a range such as 5..20, ..20 or 5.., not {value!r}") from None
            where[name] = (ends[0], ends[1])
        else:
            where[name] = tuple(choice.strip() for choice in value.split("|"))
    return where


def _place(number: str, items: tuple[str, ...], noun: str, where: str) -> str:
    place = _whole(number)
    if place is None or not 1 <= place <= len(items):
        count = f"is 1 {noun}" if len(items) == 1 else f"are {len(items) or 'no'} {noun}s"
        raise InputError(f"{repr(_cut(number)) if number else 'which one'}: there {count} {where}")
    return items[place - 1]


def _whole(text: str) -> int | None:
    """The number that a text is; None where it is none, or has more digits than any place (`int` refuses 4,301)."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else None


def _cut(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"


def _plain(text: str) -> Text:
    return Text(_CONTROL.sub(" ", text))


def _lines() -> Iterator[str]:
    """Lines of the keyboard, with editing, or of a pipe; bytes that are no UTF-8 become replacement characters."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401 - importing it gives `input` its line editing

    while True:
        try:
            yield input("> ")
        except EOFError:
            return
