"""`Split` and `Cases`: what is learned from, and what is asked in evaluation.

Three ways to split: leave-last-out, by time, or as given in files. Items can be made cold: drawn by seed and stripped
from every training history, so that only evaluation names them.

Shapes: C cases, U users, E events.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.interactions import Interactions
from genrec.sequences import Sequences, _gather
from genrec.timestamps import DAY
from genrec.windows import merge_rows
from semtok.catalog import Catalog
from semtok.errors import InputError
from semtok.folders import read_json, to_json, write_atomic
from semtok.tables import id_column, read_table, refuse_rows, require_columns

FILE = "split.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cases:
    """Evaluation cases: a history and the item that came next. A user may have several.

    Attributes:
        case_ids: C different ids: the user's where every user has one case, else "USER/1", "USER/2", ….
        user_ids: C ids.
        histories: C sequences of catalogue rows, everything that the user had before the target, as it happened.
        targets: int32 [C], catalogue rows.
        same_day: bool [C], the target has the UTC day of the history's last item; None where days are unknown.
        cold: bool [C], the target occurs nowhere in the split's training histories.
    """

    case_ids: tuple[str, ...]
    user_ids: tuple[str, ...]
    histories: Sequences
    targets: NDArray[np.int32]
    same_day: NDArray[np.bool_] | None
    cold: NDArray[np.bool_]

    def __post_init__(self) -> None:
        sizes = {len(self.case_ids), len(self.user_ids), len(self.histories), len(self.targets), len(self.cold)}
        if len(sizes) != 1 or (self.same_day is not None and len(self.same_day) != len(self.targets)):
            raise ValueError("every field of Cases has one entry a case")

    def __len__(self) -> int:
        return len(self.case_ids)


@dataclass(frozen=True, eq=False)
class Split:
    """Training histories and two sets of evaluation cases.

    Attributes:
        train: U' sequences of catalogue rows; a user may have several where the split was given.
        train_user_ids: U' ids, whose sequences they are.
        valid, test: cases for choosing, and for the one final reading.
        name: "leave_last_out", "by_time" or "given".
        cold_items: sorted catalogue rows that were drawn and stripped from training, int32.
    """

    train: Sequences
    train_user_ids: tuple[str, ...]
    valid: Cases
    test: Cases
    name: str
    cold_items: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def __post_init__(self) -> None:
        if len(self.train) != len(self.train_user_ids):
            raise ValueError("one user id a training sequence")

    def save(self, folder: Path) -> None:
        """Write `train.parquet`, `valid.parquet`, `test.parquet` and `split.json` into an existing folder."""
        train = {"user_id": pl.Series(self.train_user_ids, dtype=pl.String), "items": _to_lists(self.train)}
        pl.DataFrame(train).write_parquet(folder / "train.parquet")
        for name, cases in (("valid", self.valid), ("test", self.test)):
            columns = {
                "case_id": pl.Series(cases.case_ids, dtype=pl.String),
                "user_id": pl.Series(cases.user_ids, dtype=pl.String),
                "history": _to_lists(cases.histories),
                "target": pl.Series(cases.targets, dtype=pl.Int32),
                "same_day": pl.Series(
                    [None] * len(cases) if cases.same_day is None else cases.same_day, dtype=pl.Boolean
                ),
                "cold": pl.Series(cases.cold, dtype=pl.Boolean),
            }
            pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
        facts = {
            "name": self.name,
            "cold_items": self.cold_items.tolist(),
            "days_known": {"valid": self.valid.same_day is not None, "test": self.test.same_day is not None},
        }
        write_atomic(folder / FILE, to_json(facts))

    @classmethod
    def load(cls, folder: Path) -> Split:
        """Read what `save` wrote; raises InputError where a file is missing or broken."""
        facts = read_json(folder / FILE)
        try:
            name, cold_items, days_known = facts["name"], facts["cold_items"], facts["days_known"]
            train = _stored(folder / "train.parquet")
            sequences, users = _from_lists(train["items"]), tuple(train["user_id"])
            valid, test = (_stored_cases(folder / f"{part}.parquet", days_known[part]) for part in ("valid", "test"))
        except (KeyError, TypeError, pl.exceptions.ColumnNotFoundError) as error:
            raise InputError(f"{folder / FILE}: not a split of genrec ({error})") from None
        return cls(sequences, users, valid, test, name, np.asarray(cold_items, dtype=np.int32))

    def train_and_valid(self) -> Sequences:
        """Training histories continued by the validation cases, for a refit after every choice is made.

        Each event counts once (see `merge_rows`); cold items stay out. Users who appear only in validation come last.
        """
        rows = _strip(_with_targets(self.valid.histories, self.valid.targets), self.cold_items)
        width = int(self.valid.histories.lengths.max(initial=0))
        return merge_rows(self.valid.user_ids, rows, width, start=(self.train_user_ids, self.train))[1]


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
    train = _gather(log.histories.values, starts, train_lengths)
    ends = log.histories.offsets[1:][asked]
    return _finish(log, train, (asked, ends - 2), (asked, ends - 1), "leave_last_out", cold_share, seed)


def by_time(
    log: Interactions, *, valid_share: float = 0.1, test_share: float = 0.1, cold_share: float = 0.0, seed: int = 0
) -> Split:
    """Learn from the past, validate on the next stretch of time, test on the last.

    Two moments cut the whole log so that about `valid_share` and `test_share` of its events fall after them; events of
    one moment stay together. Every event of a stretch is a case if its user has an earlier event; its history is all
    that the user had before, also inside the stretch (memory: the sum of these histories).

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
    users = np.repeat(np.arange(len(log.user_ids)), log.histories.lengths)
    has_history = np.arange(events) > log.histories.offsets[users]
    in_test = log.times >= first_test
    in_valid = (log.times >= first_valid) & ~in_test
    in_train = log.times < first_valid
    train_lengths = np.bincount(users[in_train], minlength=len(log.user_ids))
    train = _gather(log.histories.values, log.histories.offsets[:-1], train_lengths)
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
    train = _strip(train, cold_items)
    kept = np.flatnonzero(train.lengths > 0)
    train, train_users = train.take(kept), tuple(log.user_ids[user] for user in kept.tolist())

    def cases(users: NDArray[np.int64], events: NDArray[np.int64]) -> Cases:
        starts = log.histories.offsets[users]
        targets = log.histories.values[events]
        days = log.times // DAY
        same_day = None if log.time_unit == "position" else days[events] == days[events - 1]
        user_ids = tuple(log.user_ids[user] for user in users.tolist())
        histories = _gather(log.histories.values, starts, events - starts)
        return Cases(_case_ids(user_ids), user_ids, histories, targets, same_day, ~_among(targets, train.values))

    return Split(train, train_users, cases(*valid), cases(*test), name, cold_items)


def _case_ids(user_ids: tuple[str, ...]) -> tuple[str, ...]:
    users = pl.DataFrame({"user": pl.Series(user_ids, dtype=pl.String)})
    if users["user"].n_unique() == len(users):
        return user_ids
    return tuple(users.select(pl.format("{}/{}", "user", pl.int_range(1, pl.len() + 1).over("user"))).to_series())


def _strip(sequences: Sequences, items: NDArray[np.int32]) -> Sequences:
    """The sequences without some items; they keep their number and may become empty."""
    keep = ~_among(sequences.values, items)
    kept_before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
    return Sequences(sequences.values[keep], kept_before[sequences.offsets])


def _among(rows: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which catalogue rows occur in `others`, bool of the shape of `rows`; linear where np.isin sorts."""
    present = np.zeros(max(rows.max(initial=0), others.max(initial=0)) + 1, dtype=np.bool_)
    present[others] = True
    return present[rows]


def _with_targets(histories: Sequences, targets: NDArray[np.int32]) -> Sequences:
    """Each history with its target behind it."""
    offsets = histories.offsets + np.arange(len(histories) + 1)
    return Sequences(np.insert(histories.values, histories.offsets[1:], targets), offsets)


def from_given(folder: Path, catalog: Catalog, log: Interactions | None = None) -> Split:
    """Take a published split: `train.csv`, `valid.csv`, `test.csv` with `user_id,history,target[,timestamp]`.

    `history` is item ids with spaces between them, oldest first. A user may have several rows; training sequences are
    put together again from them so that no event counts twice (`genrec.windows.merge_rows`).

    Args:
        folder: where the three files are.
        catalog: the items that they may name.
        log: the log behind the split. With it, and a `timestamp` of each target in its unit, `same_day` is known: the
            last history item's time is that of its user's latest event with it, no later than the target.

    Raises:
        InputError: see `read_table`; a missing column, user, history or target; an item that is not in the catalogue
            (the first such row and the count).
    """
    given = {part: _read_given(folder / f"{part}.csv", catalog) for part in ("train", "valid", "test")}
    users, histories, targets, _ = given["train"]
    width = int(histories.lengths.max())
    train_users, train = merge_rows(users, _with_targets(histories, targets), width)

    def cases(part: str) -> Cases:
        users, histories, targets, moments = given[part]
        same_day = None
        if log is not None and moments is not None and log.time_unit != "position":
            same_day = _same_day(users, histories, moments, log)
        return Cases(_case_ids(users), users, histories, targets, same_day, ~_among(targets, train.values))

    return Split(train, train_users, cases("valid"), cases("test"), "given")


_Given = tuple[tuple[str, ...], Sequences, NDArray[np.int32], NDArray[np.int64] | None]


def _read_given(path: Path, catalog: Catalog) -> _Given:
    """Users, histories, targets and, where every row has one, the target's timestamp."""
    table = read_table(path, what="a split")
    require_columns(table, path, ("user_id", "history", "target"))
    users = id_column(table, path, "user_id")
    target_ids = id_column(table, path, "target")
    targets = catalog.find(target_ids)
    refuse_rows(pl.Series(targets < 0), path, "have a target that is not in the item table", values=target_ids)
    words = table["history"].str.extract_all(r"\S+")
    refuse_rows(words.list.len() == 0, path, "have no history")
    rows = catalog.find(words.explode())
    histories = Sequences(rows, _offsets(words.list.len()))
    unknown = np.add.reduceat(rows < 0, histories.offsets[:-1]) > 0
    refuse_rows(pl.Series(unknown), path, "have items in their history that are not in the item table")
    moments = None
    if "timestamp" in table.columns:
        numbers = table["timestamp"].cast(pl.Int64, strict=False)
        moments = None if numbers.has_nulls() else numbers.to_numpy()
    return tuple(users), histories, targets, moments


def _same_day(
    users: tuple[str, ...], histories: Sequences, moments: NDArray[np.int64], log: Interactions
) -> NDArray[np.bool_]:
    """Whether each case's target falls on the day of the last item of its history, bool [C]."""
    events = pl.DataFrame(
        {
            "user": np.repeat(np.asarray(log.user_ids, dtype=object), log.histories.lengths),
            "item": log.histories.values,
            "time": log.times,
            "last": log.times,
        },
        schema_overrides={"user": pl.String},
    )
    last_items = histories.values[histories.offsets[1:] - 1]
    cases = pl.DataFrame({"case": np.arange(len(users)), "user": users, "item": last_items, "time": moments})
    found = (
        cases.sort("time")
        .join_asof(events.sort("time"), on="time", by=["user", "item"], strategy="backward", check_sortedness=False)
        .sort("case")
    )
    if found["last"].has_nulls():
        first = found.filter(pl.col("last").is_null())["user"][0]
        count = found["last"].null_count()
        raise InputError(f"the log lacks the last history item of {count:,} cases, first of user {first!r}")
    return (found["last"] // DAY == found["time"] // DAY).to_numpy()


def _offsets(lengths: pl.Series) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int64)


def _to_lists(sequences: Sequences) -> pl.Series:
    """Ragged rows as a list<int32> column."""
    flat = pl.DataFrame({"row": np.repeat(np.arange(len(sequences)), sequences.lengths), "item": sequences.values})
    lists = flat.group_by("row", maintain_order=True).agg("item")
    every = pl.DataFrame({"row": np.arange(len(sequences))})
    joined = every.join(lists, on="row", how="left", maintain_order="left")["item"]
    return joined.fill_null(pl.Series([[]], dtype=pl.List(pl.Int32)))


def _from_lists(lists: pl.Series) -> Sequences:
    values = lists.explode(empty_as_null=False).to_numpy()
    return Sequences(values.astype(np.int32), _offsets(lists.list.len()))


def _stored(path: Path) -> pl.DataFrame:
    return read_table(path, what="a split")


def _stored_cases(path: Path, days_known: bool) -> Cases:
    table = _stored(path)
    same_day = table["same_day"].to_numpy().astype(np.bool_) if days_known else None
    return Cases(
        tuple(table["case_id"]),
        tuple(table["user_id"]),
        _from_lists(table["history"]),
        table["target"].to_numpy(),
        same_day,
        table["cold"].to_numpy().astype(np.bool_),
    )
