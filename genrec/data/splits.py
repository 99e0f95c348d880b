"""Three ways to split a log into training histories and evaluation cases: leave-last-out, by time, as given in files.

Items can be made cold: drawn by seed and stripped from every training history, so that only evaluation names them.

Shapes: C cases, U users, E events.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.data.cases import Cases, Split, among, with_targets, without_items
from genrec.data.interactions import Interactions
from genrec.data.sequences import Sequences, gather, offsets_of
from genrec.data.timestamps import DAY
from genrec.data.windows import merge_rows
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.tables import id_column, read_table, refuse_rows, require_columns

__all__ = ["Cases", "Split", "by_time", "from_given", "leave_last_out"]

_log = logging.getLogger(__name__)


def leave_last_out(log: Interactions, *, cold_share: float = 0.0, seed: int = 0) -> Split:
    """Test on every user's last item, validate on the one before, learn from the rest.

    Users with fewer than three events are learned from and not asked. Kang & McAuley (2018), section IV-B.

    Args:
        log: the log; any unit of time will do.
        cold_share: share of the log's items, in [0, 1), drawn by seed and stripped from every training history. The
            histories of cases keep them, as they happened; cases that ask for one are marked `cold`.
        seed: of the draw.
    """
    starts, lengths = log.histories.offsets[:-1], log.histories.lengths
    asked = np.flatnonzero(lengths >= 3)
    if len(asked) == 0:
        raise InputError("leave-last-out needs users with at least three events; the log has none")
    train_lengths = np.where(lengths >= 3, lengths - 2, lengths)
    train = gather(log.histories.values, starts, train_lengths)
    ends = log.histories.offsets[1:][asked]
    return _finish(log, train, (asked, ends - 2), (asked, ends - 1), "leave_last_out", cold_share, seed)


def by_time(
    log: Interactions, *, valid_share: float = 0.1, test_share: float = 0.1, cold_share: float = 0.0, seed: int = 0
) -> Split:
    """Learn from the past, validate on the next stretch of time, test on the last.

    Two moments cut the whole log so that about `valid_share` and `test_share` of its events fall after them; events of
    one moment stay together. Every event of a stretch is a case if its user has an earlier event; its history is all
    that the user interacted with before, also inside the stretch (memory: the sum of these histories).

    Args:
        log: a log in `seconds` or `days`.
        valid_share, test_share: shares of the log's events, above 0, together below 1.
        cold_share, seed: as in `leave_last_out`.

    Raises:
        InputError: the log has only positions, or a stretch has no case.
    """
    if log.time_unit == "position":
        raise InputError("--data.split by_time needs times; the log's timestamps are only positions")
    if not (valid_share > 0 and test_share > 0 and valid_share + test_share < 1):
        raise InputError(
            f"--data.valid_share {valid_share}, --data.test_share {test_share}: must be above 0, together below 1"
        )
    events = len(log.times)
    by_age = np.sort(log.times)
    first_test = by_age[min(round(events * (1 - test_share)), events - 1)]
    first_valid = by_age[min(round(events * (1 - test_share - valid_share)), events - 1)]
    users = log.histories.owners
    has_history = np.arange(events) > log.histories.offsets[users]
    in_test = log.times >= first_test
    in_valid = (log.times >= first_valid) & ~in_test
    in_train = log.times < first_valid
    train_lengths = np.bincount(users[in_train], minlength=len(log.user_ids))
    train = gather(log.histories.values, log.histories.offsets[:-1], train_lengths)
    parts = [np.flatnonzero(part & has_history) for part in (in_valid, in_test)]
    for name, part in zip(("validation", "test"), parts, strict=True):
        if len(part) == 0 or not in_train.any():
            raise InputError(f"by_time leaves no training events or no {name} cases: too few different times")
    lone = int(((in_valid | in_test) & ~has_history).sum())
    if lone:
        _log.info("by_time: %d events after the first cut are their user's first and make no case", lone)
    valid, test = ((users[part], part) for part in parts)
    return _finish(log, train, valid, test, "by_time", cold_share, seed)


def _finish(
    log: Interactions,
    train: Sequences,
    valid: tuple[NDArray[np.int64], NDArray[np.int64]],
    test: tuple[NDArray[np.int64], NDArray[np.int64]],
    name: str,
    cold_share: float,
    seed: int,
) -> Split:
    """Strip cold items from training and build the cases; `valid` and `test` are (users [C], events [C]) in the log."""
    if not 0 <= cold_share < 1:
        raise InputError(f"--data.cold_share {cold_share}: must be at least 0 and below 1")
    items = np.flatnonzero(np.bincount(log.histories.values))
    drawn = np.random.default_rng(seed).choice(items, size=round(cold_share * len(items)), replace=False)
    cold_items = np.sort(drawn).astype(np.int32)
    train = without_items(train, cold_items)
    kept = np.flatnonzero(train.lengths > 0)
    if len(kept) == 0:
        raise InputError(f"--data.cold_share {cold_share}: leaves no event to learn from")
    train, train_users = train.take(kept), tuple(log.user_ids[user] for user in kept.tolist())

    def cases(users: NDArray[np.int64], events: NDArray[np.int64]) -> Cases:
        starts = log.histories.offsets[users]
        targets = log.histories.values[events]
        days = log.times // DAY
        same_day = None if log.time_unit == "position" else days[events] == days[events - 1]
        user_ids = tuple(log.user_ids[user] for user in users.tolist())
        histories = gather(log.histories.values, starts, events - starts)
        return Cases(_case_ids(user_ids), user_ids, histories, targets, same_day, ~among(targets, train.values))

    return Split(train, train_users, cases(*valid), cases(*test), name, cold_items)


def _case_ids(user_ids: tuple[str, ...]) -> tuple[str, ...]:
    users = pl.DataFrame({"user": pl.Series(user_ids, dtype=pl.String)})
    if users["user"].n_unique() == len(users):
        return user_ids
    return tuple(users.select(pl.format("{}/{}", "user", pl.int_range(1, pl.len() + 1).over("user"))).to_series())


def from_given(folder: Path, catalog: Catalog, log: Interactions | None = None) -> Split:
    """Take a published split: `train.csv`, `valid.csv`, `test.csv` with `user_id,history,target[,timestamp]`.

    `history` is item ids with spaces between them, oldest first. A user may have several rows; training sequences are
    put together again from them so that no event counts twice (`genrec.data.windows.merge_rows`).

    Args:
        folder: where the three files are.
        catalog: the items that they may name.
        log: the log behind the split. With it, and a `timestamp` of each target in its unit, `same_day` is known.

    Raises:
        InputError: see `read_table`; a missing column, user, history or target; an item that is not in the catalogue
            (the first such row and the count); a case whose last two events do not stand in the log.
    """
    given = {part: _read_given(folder / f"{part}.csv", catalog) for part in ("train", "valid", "test")}
    users, histories, targets, _ = given["train"]
    width = int(histories.lengths.max())
    train_users, train = merge_rows(users, with_targets(histories, targets), width)

    def cases(part: str) -> Cases:
        users, histories, targets, moments = given[part]
        same_day = None
        if log is not None and moments is not None and log.time_unit != "position":
            same_day = _same_day(users, histories, targets, moments, log)
        return Cases(_case_ids(users), users, histories, targets, same_day, ~among(targets, train.values))

    return Split(train, train_users, cases("valid"), cases("test"), "given")


_Given = tuple[tuple[str, ...], Sequences, NDArray[np.int32], NDArray[np.int64] | None]


def _read_given(path: Path, catalog: Catalog) -> _Given:
    """Users, histories, targets and, where every row has one, the target's timestamp."""
    table = read_table(path, what="a split")
    require_columns(table, path, ("user_id", "history", "target"))
    users = id_column(table, path, "user_id")
    target_ids = id_column(table, path, "target")
    targets = catalog.find(target_ids)
    refuse_rows(pl.Series(targets < 0), path, "with a target that is not in the item table", values=target_ids)
    words = table["history"].str.extract_all(r"\S+")
    refuse_rows(words.list.len() == 0, path, "without history")
    rows = catalog.find(words.explode())
    histories = Sequences(rows, offsets_of(words.list.len()))
    unknown = np.add.reduceat(rows < 0, histories.offsets[:-1]) > 0
    refuse_rows(pl.Series(unknown), path, "with an item in the history that is not in the item table")
    moments = None
    if "timestamp" in table.columns:
        numbers = table["timestamp"].cast(pl.Int64, strict=False)
        moments = None if numbers.has_nulls() else numbers.to_numpy()
    return tuple(users), histories, targets, moments


def _same_day(
    users: tuple[str, ...],
    histories: Sequences,
    targets: NDArray[np.int32],
    moments: NDArray[np.int64],
    log: Interactions,
) -> NDArray[np.bool_]:
    """Whether each case's target falls on the day of the last item of its history, bool [C].

    The case is found in the log as two events that follow each other; of several such pairs the latest counts.
    """
    key = ["user", "last", "target", "time"]
    names = pl.Series(log.user_ids, dtype=pl.String).gather(log.histories.owners)
    events = pl.DataFrame({"user": names, "target": log.histories.values, "time": log.times})
    events = events.with_columns(pl.col("target", "time").shift().over("user").name.prefix("last_"))
    pairs = events.rename({"last_target": "last"}).group_by(key).agg(before=pl.col("last_time").max())
    last_items = histories.values[histories.offsets[1:] - 1]
    cases = pl.DataFrame({"user": users, "last": last_items, "target": targets, "time": moments})
    found = cases.join(pairs, on=key, how="left", maintain_order="left")
    missing = found["before"].is_null()
    if missing.any():
        first = users[missing.arg_max() or 0]
        raise InputError(f"the log lacks {missing.sum():,} cases of the given split, first of user {first!r}")
    return (found["before"] // DAY == found["time"] // DAY).to_numpy()
