"""`Columns`: what a person's two tables call the columns that genrec reads.

    data: {items: books.csv, interactions: ratings.csv, columns: {item_id: book_id, title: name, user_id: reader}}
    genrec.fit("books.csv", "ratings.csv", run="runs/books", columns={"item_id": "book_id", ...})

Where one is missing, the error looks at both tables and offers the option.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from genrec.semtok.errors import InputError, OptionError, listed


@dataclass(frozen=True)
class Columns:
    """What the columns of the two tables are called.

    Attributes:
        item_id: of the item table and the log: an item's id.
        title: of the item table.
        withdrawn: of the item table, where it has such a column: items that are kept and never recommended.
        user_id: of the log.
        timestamp: of the log.
        item_id_in_log: of the log, where it calls the item's id otherwise than the item table.
    """

    item_id: str = "item_id"
    title: str = "title"
    withdrawn: str = "withdrawn"
    user_id: str = "user_id"
    timestamp: str = "timestamp"
    item_id_in_log: str | None = None

    def __post_init__(self) -> None:
        for kind in (self.of_items, self.of_log):
            for option, name in kind.items():
                others = [other for other, same in kind.items() if same == name and other != option]
                if not name or others:
                    raise OptionError(option, f"{name!r}: {'is no name' if not name else f'is {others[0]} too'}")

    @property
    def of_items(self) -> dict[str, str]:
        """The item table's columns by option."""
        return {"item_id": self.item_id, "title": self.title, "withdrawn": self.withdrawn}

    @property
    def of_log(self) -> dict[str, str]:
        """The log's columns by option."""
        item_id = self.item_id_in_log or self.item_id
        return {"item_id_in_log": item_id, "user_id": self.user_id, "timestamp": self.timestamp}

    def told(self) -> dict[str, str]:
        """Those that are called otherwise than here, by option."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Columns, name)}


STANDARD = Columns()


class MissingColumns(InputError):
    """Tables lack columns.

    Attributes:
        told: which, and what is there instead.
        names: what to say they are called, by option: the name, or NAME where it cannot be guessed.
    """

    def __init__(self, told: str, names: Mapping[str, str]) -> None:
        flags = " ".join(f"--data.columns.{option} {name}" for option, name in names.items())
        super().__init__(f"{told}. Say what it is called: {flags}")
        self.told, self.names = told, names


class Header(NamedTuple):
    """A table's columns: those that it has, and those that it must have, by the option that names each."""

    path: Path
    has: Collection[str]
    wanted: Mapping[str, str]


def require_named(headers: Iterable[Header]) -> None:
    """Raise one MissingColumns about all columns that some tables lack."""
    headers = list(headers)
    told: list[str] = []
    options: list[str] = []
    for path, has, wanted in headers:
        missing = {option: name for option, name in wanted.items() if name not in has}
        if missing:
            told.append(f"{path}: no column {listed(missing.values())}; it has {listed(has) or 'none'}")
            options += missing
    if told:
        raise MissingColumns(". ".join(told), _guessed(headers, options))


def _guessed(headers: list[Header], options: list[str]) -> dict[str, str]:
    """A name for each option; where both tables lack the item's id and share one column, that is it."""
    found = dict.fromkeys(options, "NAME")
    if {"item_id", "item_id_in_log"} <= found.keys():
        shared = [name for name in headers[0].has if name in headers[-1].has]
        if shared:
            del found["item_id_in_log"]
            found["item_id"] = shared[0] if len(shared) == 1 else "NAME"
    return found
