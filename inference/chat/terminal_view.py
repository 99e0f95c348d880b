"""How a conversation looks in a terminal: lines that break between words, never inside one, whatever the width.

view = TerminalView(Console())
view.say("a long text"), view.cards(reply.cards), view.table(reply.table)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrec.inference.chat.state import Card

# What moves the cursor, ends a line or turns the direction of what follows (Unicode's bidirectional controls).
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_HIDDEN = 60  # characters from which an attribute is too long for a card
_LEAST = 8  # characters of a line, however narrow the terminal
_PADDING = 2  # characters between the columns of a table


class TerminalView:
    """Prints to a console. No control character of a text reaches it."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str, style: str = "", indent: int = 0, begin: str = "") -> None:
        """Print a text, its lines broken between words; a word longer than a line stays whole.

        Args:
            indent: characters before each line.
            begin: what stands in their place before the first.
        """
        width = max(_LEAST, self.console.width - indent)
        lines = [line for part in text.split("\n") for line in _lines(part, width)]
        for place, line in enumerate(lines):
            start = (begin if place == 0 else "").ljust(indent)
            self.console.print(Text(start + line, style=style), no_wrap=True, overflow="ignore", crop=False)

    def flow(self, pieces: Iterable[str]) -> None:
        """Print a text while it is written: a word as soon as it is whole, on a new line where it would not fit."""
        column, waiting = 0, ""
        for piece in chain(pieces, " "):
            waiting += _CONTROL.sub(" ", piece)
            *words, waiting = re.split(r"\s+", waiting)
            for word in filter(None, words):
                size = cell_len(word)
                if column and column + 1 + size > self.console.width:
                    self.console.print()
                    column = 0
                self.console.print(Text(f" {word}" if column else word), end="", soft_wrap=True)
                column += size + (1 if column else 0)
        self.console.print()

    def cards(self, cards: Sequence[Card]) -> None:
        """Print cards, one below the other: place and title, facts, the reason."""
        for place, card in enumerate(cards, start=1):
            number = f"{place}  "
            facts = "; ".join(f"{name} {value}" for name, value in card.attributes.items() if len(value) <= _HIDDEN)
            self.console.print()
            self.say(card.title, "bold", indent=len(number), begin=number)
            for text, style in ((facts, ""), (card.reason, "dim")):
                if text:
                    self.say(text, style, indent=len(number))

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print a table with its heading first; where its words don't fit beside each other, row by row."""
        heading, *body = rows
        least = [max(map(_longest_word, column)) for column in zip(*rows, strict=True)]
        if sum(least) + _PADDING * len(least) > self.console.width:
            for name, *cells in body:
                self.console.print()
                self.say(name, "bold")
                for title, cell in zip(heading[1:], cells, strict=True):
                    self.say(f"{title}: {cell}" if title else cell, indent=2)
            return
        table = Table(box=SIMPLE, pad_edge=False)
        for title, width in zip(heading, least, strict=True):
            table.add_column(_plain(title), min_width=width)
        for row in body:
            table.add_row(*map(_plain, row))
        self.console.print(table)


def _lines(text: str, width: int) -> list[str]:
    """The words of a text in lines of at most so many cells, but for longer words; one empty line where it has none."""
    lines = [""]
    for word in _CONTROL.sub(" ", text).split():
        line = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(line) > width:
            lines.append(word)
        else:
            lines[-1] = line
    return lines


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in _CONTROL.sub(" ", text).split()), default=1)


def _plain(text: str) -> Text:
    return Text(_CONTROL.sub(" ", text))
