"""The users of a batch job, one after another, in constant memory: from the log, a file, or standard input.

A file has a row a user: `user_id,history`, oldest item first; in CSV the history is item ids with spaces between
them, in JSONL and Parquet a list or such a text. It is read twice: once before any work, to check every row, to find
users that are duplicated, and to hash it, and once to do the work, where a change since is found before it has any
effect. Standard input is JSONL and is first copied to a file.

    users = FileUsers(Path("users.jsonl"), catalog)
    for user_id, history in users: ...
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.data.interactions import Interactions
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError, first_line
from genrec.semtok.folders import hash_file, hold_lock
from genrec.semtok.tables import open_plain

User = tuple[str, NDArray[np.int32]]
PARQUET_ROWS = 8192  # read at a time
LONGEST_FIELD = 1 << 24  # characters of a CSV history: not for ever, for a quote that nobody closes holds all the rest
BLOCK = 1024  # users that are compared with what was checked before any of them is given
BUCKETS = 64  # files over which the hashes of user ids are spread


class Users(Protocol):
    """Different users, as often as they are iterated over in the same order.

    Attributes:
        count: how many.
        digest: SHA-256 of what they are made from.
    """

    @property
    def count(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def __iter__(self) -> Iterator[User]:
        """User id and history, catalogue rows int32, oldest first."""


class LogUsers:
    """Every user of an interaction log."""

    def __init__(self, log: Interactions) -> None:
        self._log = log
        self.count = len(log.user_ids)
        digest = hashlib.sha256(json.dumps(log.user_ids).encode())
        digest.update(log.histories.offsets.tobytes() + log.histories.values.tobytes())
        self.digest = digest.hexdigest()

    def __iter__(self) -> Iterator[User]:
        return zip(self._log.user_ids, self._log.histories, strict=True)


class FileUsers:
    """The users of a `.jsonl`, `.csv` (either may be gzipped) or `.parquet` file, all checked when this is built.

    Args:
        path: the file.
        catalog: the items that histories may name.
        name: what to call the file in messages, if not by its path.

    Raises:
        InputError: the file is missing, empty or of another kind; a row is broken, has no user, names an item that is
            not in the catalogue, or has a user whom an earlier row has. Names the row, counted as an editor or a
            spreadsheet counts.
    """

    def __init__(self, path: Path, catalog: Catalog, *, name: str | None = None) -> None:
        self._path, self._name = path, name or str(path)
        self._row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}  # a method call an item is slow
        if not path.is_file():
            raise InputError(f"{self._name}: no such file (users)")
        self.digest = hash_file(path)
        self._blocks: list[bytes] = []
        try:
            self.count = self._check()
        except OSError as error:
            raise InputError(f"{self._name}: can't be checked ({error.strerror}; {tempfile.gettempdir()})") from None
        if hash_file(path) != self.digest:
            raise self._changed()

    def __iter__(self) -> Iterator[User]:
        """The users that were checked, block by block.

        Raises:
            InputError: the file holds others by now; nobody of a changed block is given.
        """
        place = 0
        for place, block in enumerate(_blocks(user for _, user in self._rows()), start=1):
            if self._blocks[place - 1 : place] != [_block_hash(block)]:
                raise self._changed()
            yield from block
        if place != len(self._blocks):
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(f"{self._name}: changed while it was read; it must stay as it is until the job ends")

    def _check(self) -> int:
        count = 0
        with tempfile.TemporaryDirectory() as scratch:
            repeated = _RepeatedHashes(Path(scratch))
            for block in _blocks(user for _, user in self._rows()):
                self._blocks.append(_block_hash(block))
                count += len(block)
                for user_id, _ in block:
                    repeated.add(user_id)
            suspects = repeated.found()
        if suspects:
            self._refuse_repeats(suspects)
        if count == 0:
            raise InputError(f"{self._name}: no rows (users)")
        return count

    def _refuse_repeats(self, suspects: set[int]) -> None:
        first_row: dict[str, int] = {}
        for number, (user_id, _) in self._rows():
            if _hash(user_id) in suspects and first_row.setdefault(user_id, number) != number:
                rows = f"rows {first_row[user_id]} and {number}"
                raise InputError(f"{self._name}: user {user_id!r} is duplicated, in {rows}")

    def _rows(self) -> Iterator[tuple[int, User]]:
        """Row number and user."""
        row_of = self._row_of
        for number, user_id, history in self._raw_rows():
            if isinstance(user_id, bool) or not isinstance(user_id, str | int) or user_id == "":
                raise InputError(f"{self._name}: row {number} has no user_id")
            if not _is_encodable(str(user_id)):
                raise InputError(f"{self._name}: row {number}: half a character in the user_id {user_id!r}")
            items = history.split() if isinstance(history, str) else history
            if not isinstance(items, list):
                raise InputError(f"{self._name}: row {number}: the history is not a list of item ids")
            try:
                rows = [row_of[item] for item in items]
            except (KeyError, TypeError):
                rows = self._rows_of(items, number)
            yield number, (str(user_id), np.array(rows, dtype=np.int32))

    def _rows_of(self, items: list[Any], number: int) -> list[int]:
        """Catalogue rows where ids may be numbers, or no ids at all, or an item unknown."""
        if any(isinstance(i, bool) or not isinstance(i, str | int) for i in items):
            raise InputError(f"{self._name}: row {number}: the history is not a list of item ids")
        for item in items:
            if str(item) not in self._row_of:
                raise InputError(f"{self._name}: row {number}: no item {str(item)!r} in the catalogue")
        return [self._row_of[str(item)] for item in items]

    def _raw_rows(self) -> Iterator[tuple[int, Any, Any]]:
        """Row number, user id and history as they stand in the file."""
        suffix = (self._path.with_suffix("") if self._path.suffix == ".gz" else self._path).suffix.lower()
        if suffix == ".parquet" and self._path.suffix != ".gz":
            yield from self._parquet_rows()
            return
        if suffix not in (".jsonl", ".ndjson", ".csv"):
            raise InputError(f"{self._name}: users must be a .jsonl, .csv or .parquet file, the first two also .gz")
        try:
            with open_plain(self._path) as data:
                text = io.TextIOWrapper(data, encoding="utf-8-sig", newline="" if suffix == ".csv" else None)
                yield from self._csv_rows(text) if suffix == ".csv" else self._json_rows(text)
        except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
            raise InputError(f"{self._name}: can't be read ({error})") from None

    def _json_rows(self, lines: Iterable[str]) -> Iterator[tuple[int, Any, Any]]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                user_id, history = row["user_id"], row["history"]
            except (ValueError, RecursionError, TypeError, KeyError):  # ValueError: also of a number of 5,000 digits
                raise InputError(f'{self._name}: row {number} is not {{"user_id": ..., "history": [...]}}') from None
            yield number, user_id, history

    def _csv_rows(self, lines: Iterable[str]) -> Iterator[tuple[int, Any, Any]]:
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.DictReader(lines, strict=True)
        if not {"user_id", "history"} <= set(reader.fieldnames or ()):
            raise InputError(f"{self._name}: needs the columns user_id and history")
        number = 1
        try:
            for number, row in enumerate(reader, start=2):
                if row["history"] is None or None in row:
                    raise InputError(f"{self._name}: row {number} has not as many fields as the header")
                yield number, row["user_id"], row["history"]
        except csv.Error as error:
            raise InputError(f"{self._name}: row {number + 1} is no CSV ({error})") from None

    def _parquet_rows(self) -> Iterator[tuple[int, Any, Any]]:
        try:
            table = pl.scan_parquet(self._path, glob=False)
            if not {"user_id", "history"} <= set(table.collect_schema()):
                raise InputError(f"{self._name}: needs the columns user_id and history")
            n_rows = int(table.select(pl.len()).collect().item())
            for begin in range(0, n_rows, PARQUET_ROWS):
                chunk = table.select("user_id", "history").slice(begin, PARQUET_ROWS).collect()
                yield from ((begin + i, *row) for i, row in enumerate(chunk.iter_rows(), start=1))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{self._name}: can't be read ({first_line(error)})") from None


@contextlib.contextmanager
def standard_input(stream: IO[bytes], catalog: Catalog, out: Path) -> Iterator[FileUsers]:
    """The users of a JSONL stream, copied to a file beside `out` so that all are checked before any work starts.

    A job that was interrupted goes on when the same lines are given again.
    """
    copy = out.with_name(f".{out.name}.users.jsonl")
    with hold_lock(copy, f"{out}: another job is writing here"):  # the copy is its own lock: it is the other's users
        try:
            try:
                with open(copy, "wb") as target:
                    shutil.copyfileobj(stream, target)
            except OSError as error:
                raise InputError(f"{copy}: standard input cannot be copied ({error.strerror})") from None
            yield FileUsers(copy, catalog, name="standard input")
        finally:
            copy.unlink(missing_ok=True)


def _blocks(users: Iterator[User]) -> Iterator[list[User]]:
    while block := list(itertools.islice(users, BLOCK)):
        yield block


def _block_hash(block: list[User]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for user_id, history in block:
        digest.update(json.dumps([user_id, len(history)]).encode())
        digest.update(history.tobytes())
    return digest.digest()


def _is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold the text; it can't where JSON escapes half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hash(user_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "little")


class _RepeatedHashes:
    """Finds the hashes that were added twice among any number, in memory for one part in `BUCKETS` of them."""

    def __init__(self, folder: Path) -> None:
        self._buckets = [folder / str(bucket) for bucket in range(BUCKETS)]
        self._pending: list[int] = []

    def add(self, user_id: str) -> None:
        self._pending.append(_hash(user_id))
        if len(self._pending) == 1 << 16:
            self._spill()

    def _spill(self) -> None:
        hashes = np.array(self._pending, dtype=np.uint64)
        for bucket, path in enumerate(self._buckets):
            with open(path, "ab") as file:
                file.write(hashes[hashes % BUCKETS == bucket].tobytes())
        self._pending.clear()

    def found(self) -> set[int]:
        """Hashes added more than once."""
        self._spill()
        result: set[int] = set()
        for path in self._buckets:
            hashes = np.sort(np.fromfile(path, dtype=np.uint64))
            result.update(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        return result
