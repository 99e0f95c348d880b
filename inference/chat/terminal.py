"""The terminal of `genrec chat RUN`: talk and commands in, streamed text and cards out.

Lines come from a keyboard or a pipe, so that a conversation can be scripted:

    printf 'coffee beans under 20\\n/why 1\\n' | genrec chat runs/demo
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console

from genrec.inference.chat.catalog_words import words_of_catalog
from genrec.inference.chat.config import ChatConfig
from genrec.inference.chat.conversation import Conversation, Reply
from genrec.inference.chat.model_prose import prose_for
from genrec.inference.chat.model_reader import reader_for
from genrec.inference.chat.patterns import cut
from genrec.inference.chat.state import say_conditions
from genrec.inference.chat.terminal_view import TerminalView
from genrec.inference.recommender import Recommender
from genrec.semtok.errors import InputError

HELP = """Say what you look for, have, like or refuse: "coffee beans under 20", "no more mascara",
"something like the second, but cheaper", "I bought an oat cleansing balm", "why the first?". Commands:
  /like N, /dislike N          card N joins your history; is never shown again
  /history [add ID | remove N | find WORDS] what you have, oldest first
  /where [NAME=VALUE; ...]     conditions: /where price=5..20; brand=OPI|NYX, none: /where none
  /why N                       every reason for card N
  /codes N [LEVEL]             items that share the first LEVEL codes with card N
  /refused [N]                 what is never shown again; shows the Nth of it again
  /wish [none]                 what is looked for; none: nothing in particular
  /keep NAME                   a condition that was let go is kept again
  /again                       from the beginning of the list
  /state                       all that is known of you
  /reset, /quit, /help"""
_DIGITS = 9
_FOUND = 8  # titles that /history find prints


class Terminal:
    """One conversation at a terminal."""

    def __init__(self, conversation: Conversation, console: Console) -> None:
        self.conversation, self.view = conversation, TerminalView(console)
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda rest: console.print(HELP, markup=False, highlight=False, soft_wrap=True),
            "like": lambda rest: self._show(self.conversation.like(self._card(rest))),
            "dislike": lambda rest: self._show(self.conversation.dislike(self._card(rest))),
            "why": lambda rest: self.view.say(self.conversation.why(self._card(rest))),
            "state": lambda rest: self.view.say(self.conversation.state.to_json()),
            "reset": lambda rest: self._show(self.conversation.reset()),
            "history": self._history,
            "where": self._where,
            "codes": self._codes,
            "refused": self._refused,
            "wish": self._wish,
            "keep": lambda rest: self._show(self.conversation.put_back(rest)),
            "again": lambda rest: self._show(self.conversation.restate(passed=()), "from the beginning of the list"),
        }

    def run(self, lines: Iterable[str]) -> None:
        """Answer each line, until /quit or the end of the input."""
        self.view.say("What are you looking for? /help tells what I understand.", "dim")
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
                self.view.say(str(error), "red")

    def _say(self, said: str) -> None:
        replies: list[Reply] = []

        def written() -> Iterator[str]:
            for piece in self.conversation.stream(said):
                if isinstance(piece, Reply):
                    replies.append(piece)
                else:
                    yield piece

        self.view.flow(written())
        self._below(replies[0])

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            raise InputError(f"no command /{name}; there are /{', /'.join(self._commands)}, /quit")
        self._commands[name](rest.strip())

    def _history(self, rest: str) -> None:
        action, _, what = rest.partition(" ")
        history, catalog = self.conversation.state.history, self.conversation.recommender.catalog
        if action == "add" and what:
            self._show(self.conversation.set_history([*history, *what.split()]))
        elif action == "remove" and what:
            self._show(self.conversation.forget(_place(what, history, "item", "in your history")))
        elif action == "find" and what:
            found = words_of_catalog(catalog).find_titles(what)[:_FOUND]
            titles = [f"{catalog.item_ids[match.row]}  {catalog.titles[match.row]}" for match in found]
            self.view.say("\n".join(titles) or "No title has these words.")
        elif rest:
            raise InputError("/history, /history add ID, /history remove N, /history find WORDS")
        else:
            titles = [
                f"{place}  {item}  {catalog.titles[catalog.row(item)]}" for place, item in enumerate(history, start=1)
            ]
            self.view.say("\n".join(titles) or "Your history is empty.")

    def _where(self, rest: str) -> None:
        if rest:
            schema = self.conversation.recommender.catalog.attributes.schema
            self._show(self.conversation.set_where(parse_where(rest, schema)))
        else:
            self.view.say(say_conditions(self.conversation.state.where) or "No conditions.")

    def _wish(self, rest: str) -> None:
        if rest == "none":
            self._show(self.conversation.restate(wish=""), "looking for nothing in particular")
        elif rest:
            raise InputError("/wish, /wish none; what you look for you can just say")
        else:
            self.view.say(self.conversation.state.wish or "Nothing in particular.")

    def _refused(self, rest: str) -> None:
        """List what is never shown again, items and then values, or show one of it again."""
        state, catalog = self.conversation.state, self.conversation.recommender.catalog
        values = [(name, value) for name, refused in state.unwanted.items() for value in refused]
        told = [catalog.titles[catalog.row(item)] for item in state.refused]
        told += [f"{name}: {value}" for name, value in values]
        if not rest:
            self.view.say("\n".join(f"{place}  {text}" for place, text in enumerate(told, start=1)) or "Nothing.")
            return
        place = _number(rest, len(told), "refusal", "here") - len(state.refused)
        talk = self.conversation
        reply = talk.allow(state.refused[place]) if place < 0 else talk.allow_value(*values[place])
        self._show(reply, "shown again")

    def _codes(self, rest: str) -> None:
        number, _, level = rest.partition(" ")
        depth = _whole(level.strip() or "1")
        if depth is None:
            raise InputError(f"/codes N [LEVEL]: {cut(level, 20)!r} is no level")
        others = self.conversation.neighbours(self._card(number), depth)
        self.view.say("\n".join(f"{card.semantic_id}  {card.title}" for card in others) or "No other item is under it.")

    def _card(self, number: str) -> str:
        return _place(number, self.conversation.state.shown, "card", "on the table")

    def _show(self, reply: Reply, done: str = "") -> None:
        """A reply; `done` says in place of its note what was changed."""
        self.view.say(reply.text)
        self._below(replace(reply, note=done) if done else reply)

    def _below(self, reply: Reply) -> None:
        """What stands below the text of a reply: who wrote it and what was understood, a comparison or the cards."""
        self.view.say(f"[{reply.spoken_by}] {reply.note}", "dim")
        if reply.table:
            self.view.table(reply.table)
        else:
            self.view.cards(reply.cards)


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
    return items[_number(number, len(items), noun, where)]


def _number(number: str, most: int, noun: str, where: str) -> int:
    """The place from 0 that a number from 1 names."""
    place = _whole(number)
    if place is None or not 1 <= place <= most:
        count = f"is 1 {noun}" if most == 1 else f"are {most or 'no'} {noun}s"
        raise InputError(f"{repr(cut(number, 20)) if number else 'which one'}: there {count} {where}")
    return place - 1


def _whole(text: str) -> int | None:
    """The number that a text is; None where it is none, or has more digits than any place (`int` refuses 4,301)."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else None


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
