"""A batch job's Parquet as sorted keys and packed values: what every top-K store loads.

A value is its records end to end, best first: a row of the store's own item table, and a float32 score. The rows take
two bytes each while the table has at most 65,536 items, four bytes beyond. A look-up parses nothing.

Shapes: U users, E listed items over all users, N items in the table.
"""

from __future__ import annotations

import hashlib
import math
import operator
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.inference.store.topk_store import ListsInfo
from genrec.semtok.errors import InputError, first_line
from genrec.semtok.folders import check_folder
from genrec.semtok.tables import read_table

LONGEST_KEY = 511  # bytes; LMDB's limit
DAY = 86_400.0  # seconds
_METADATA = ("run_id", "ranking", "index_version")


@dataclass(frozen=True)
class PackedLists:
    """Lists ready to be written in one pass: user u has `records[starts[u]:stops[u]]`."""

    keys: pl.Series  # [U] binary, ascending: `user_key` of each user
    records: NDArray[np.void]  # structured [E] (row, score), in the order in which the files gave them
    starts: NDArray[np.int64]  # [U], aligned with `keys`, as `stops` are
    stops: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) by ascending key."""
        data, size = self.records.tobytes(), self.records.itemsize
        for key, start, stop in zip(
            self.keys.to_list(), (self.starts * size).tolist(), (self.stops * size).tolist(), strict=True
        ):
            yield key, data[start:stop]


@dataclass(frozen=True)
class PackedBatch:
    """A batch job's folder, packed."""

    item_ids: tuple[str, ...]  # [N], ascending; the table that the records' rows point into
    lists: PackedLists  # a record is (row, score)
    histories: PackedLists | None  # a record is (row,), oldest first; None where the batch was loaded without them
    run_id: str  # this and the next two as the batch job wrote them
    ranking: str
    index_version: str
    as_of: float  # seconds since the epoch; events up to then are in the lists

    def info(self, version: str) -> ListsInfo:
        """What a store says of it under its own count."""
        users, items = len(self.lists), len(self.item_ids)
        return ListsInfo(version, self.run_id, self.ranking, self.index_version, self.as_of, users, items)


def user_key(user_id: str) -> bytes:
    """The key of a user: the id's UTF-8 bytes, or 0xFF and a digest where they are longer than LMDB takes.

    No UTF-8 text holds the byte 0xFF, so a digest never meets an ordinary id.
    """
    key = user_id.encode("utf-8", "surrogatepass")
    return key if len(key) <= LONGEST_KEY else b"\xff" + hashlib.blake2b(key, digest_size=32).digest()


def row_type(n_items: int) -> str:
    """NumPy's name for the smallest row type that counts `n_items`."""
    return "<u2" if n_items <= 1 << 16 else "<u4"


class ListDecoder:
    """Turns packed values back into ids and scores through one version's item table."""

    def __init__(self, item_ids: tuple[str, ...]) -> None:
        self.item_ids = item_ids
        row = "H" if row_type(len(item_ids)) == "<u2" else "I"
        self._lists, self._histories = _Unpackers(row + "f"), _Unpackers(row)

    def lists(self, value: bytes) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Item ids and scores of a packed list; raises ValueError for other bytes."""
        flat = self._lists[len(value)](value)
        return self._ids(flat[0::2]), flat[1::2]

    def history(self, value: bytes) -> tuple[str, ...]:
        """Item ids of a packed history; raises as `lists` does."""
        return self._ids(self._histories[len(value)](value))

    def _ids(self, rows: tuple[int, ...]) -> tuple[str, ...]:
        try:
            if len(rows) > 1:
                return operator.itemgetter(*rows)(self.item_ids)  # type: ignore[no-any-return]
            return tuple(self.item_ids[row] for row in rows)
        except IndexError:
            raise ValueError(f"a row is outside the table of {len(self.item_ids)} items") from None


class _Unpackers(dict[int, Callable[[bytes], tuple[Any, ...]]]):
    """By a value's length, what takes its records apart: worked out once a length, for it is asked on every look-up."""

    def __init__(self, record: str) -> None:
        self._record = record

    def __missing__(self, length: int) -> Callable[[bytes], tuple[Any, ...]]:
        n, rest = divmod(length, struct.calcsize("<" + self._record))
        if rest:
            raise ValueError(f"{length} bytes are not whole records")
        self[length] = struct.Struct("<" + self._record * n).unpack
        return self[length]


def read_batch(folder: Path, *, as_of: float | None = None, histories: pl.DataFrame | None = None) -> PackedBatch:
    """Read and pack a batch job's folder.

    Args:
        folder: `part-*.parquet` with `user_id`, `item_ids`, `scores` and the run in their metadata; `manifest.json`.
        as_of: seconds since the epoch up to which events are in the lists; where None, the time of the folder's first
            file, for the job had read its users by then.
        histories: `user_id` and `item_ids` (list of strings, oldest first) behind the lists.

    Raises:
        InputError: `as_of` is no time or lies ahead, for events before it would all be taken as known; the folder is
            unfinished or damaged, parts differ in their run, a user is duplicated, a list and its
            scores differ in length, or an id or score is missing.
    """
    if as_of is not None and not (math.isfinite(as_of) and as_of <= time.time() + DAY):  # a day, for clocks that differ
        raise InputError(f"--as_of {as_of:.17g}: expected seconds since the epoch, until now; are these milliseconds?")
    check_folder(folder, hashes=True)
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise InputError(f"{folder}: no part-*.parquet")
    facts = {path: _metadata(path) for path in paths}
    for path, fact in facts.items():
        if fact != facts[paths[0]]:
            raise InputError(f"{path}: of another run, ranking or index than {paths[0].name}")
    run_id, ranking, index_version = facts[paths[0]]

    columns = [_distinct(_table(path).lazy()) for path in paths]
    if histories is not None:
        columns.append(_distinct(histories.lazy()))
    item_ids = pl.concat(columns).unique().drop_nulls().sort()
    lists = _join([_pack(_table(path), item_ids, what=str(path)) for path in paths], what=str(folder))
    packed_histories = None
    if histories is not None:
        packed_histories = _join([_pack(histories, item_ids, what="histories", scored=False)], what="histories")
    return PackedBatch(
        item_ids=tuple(item_ids.to_list()),
        lists=lists,
        histories=packed_histories,
        run_id=run_id,
        ranking=ranking,
        index_version=index_version,
        as_of=min(path.stat().st_mtime for path in folder.iterdir()) if as_of is None else as_of,
    )


def _metadata(path: Path) -> tuple[str, str, str]:
    try:
        metadata, schema = pl.read_parquet_metadata(path), pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file ({first_line(error)})") from None
    for column in ("user_id", "item_ids", "scores"):
        if column not in schema:
            raise InputError(f"{path}: no column {column}")
    if schema["user_id"] != pl.String or schema["item_ids"] != pl.List(pl.String):
        raise InputError(f"{path}: user_id must be a string and item_ids a list of strings")
    if schema["scores"] not in (pl.List(pl.Float32), pl.List(pl.Float64)):
        raise InputError(f"{path}: scores must be a list of floats")
    for name in _METADATA:
        if name not in metadata:
            raise InputError(f"{path}: no {name} in the file's metadata; not made by `genrec recommend`?")
    return metadata["run_id"], metadata["ranking"], metadata["index_version"]


def _table(path: Path) -> pl.DataFrame:
    return read_table(path, what="lists", may_be_empty=True)


def _distinct(frame: pl.LazyFrame) -> pl.Series:
    return frame.select(pl.col("item_ids").explode().unique()).collect().to_series()


def _pack(frame: pl.DataFrame, item_ids: pl.Series, *, what: str, scored: bool = True) -> PackedLists:
    """One file's rows, not yet sorted."""
    users, lists = frame["user_id"], frame["item_ids"]
    for row in (users.is_null() | (users == "")).arg_true():
        raise InputError(f"{what}: row {row + 1}: no user_id")
    for row in (lists.is_null() | lists.list.eval(pl.element().is_null()).list.any()).arg_true():
        raise InputError(f"{what}: user {users[row]!r}: a missing item id or list")
    lengths = lists.list.len()
    fields = [("row", row_type(len(item_ids)))] + ([("score", "<f4")] if scored else [])
    records = np.empty(int(lengths.sum()), dtype=fields)
    records["row"] = lists.filter(lengths > 0).explode().cast(pl.Enum(item_ids)).to_physical().to_numpy()
    if scored:
        scores = frame["scores"]
        for row in (scores.list.len() != lengths).fill_null(True).arg_true():
            raise InputError(f"{what}: user {users[row]!r}: the numbers of items and scores differ")
        records["score"] = scores.filter(lengths > 0).explode().cast(pl.Float32).to_numpy()
        if not np.isfinite(records["score"]).all():
            raise InputError(f"{what}: a score is missing or not a finite number")
    stops = np.cumsum(lengths.to_numpy(), dtype=np.int64)
    return PackedLists(_keys(users), records, stops - lengths.to_numpy(), stops)


def _keys(users: pl.Series) -> pl.Series:
    keys = users.cast(pl.Binary)
    if (keys.bin.size() <= LONGEST_KEY).all():
        return keys
    return pl.Series([user_key(user) for user in users], dtype=pl.Binary)


def _join(parts: list[PackedLists], *, what: str) -> PackedLists:
    """All files' rows by ascending key."""
    keys = pl.concat([part.keys for part in parts])
    bases = np.cumsum([0] + [len(part.records) for part in parts])
    starts = np.concatenate([part.starts + base for part, base in zip(parts, bases, strict=False)])
    stops = np.concatenate([part.stops + base for part, base in zip(parts, bases, strict=False)])
    order = keys.arg_sort()
    keys = keys.gather(order)
    for row in (keys == keys.shift(1)).fill_null(False).arg_true():
        raise InputError(f"{what}: user {keys[row].decode(errors='replace')!r} is duplicated")
    chosen = order.to_numpy()
    return PackedLists(keys, np.concatenate([part.records for part in parts]), starts[chosen], stops[chosen])
