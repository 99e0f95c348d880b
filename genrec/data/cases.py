"""`Split` and `Cases`: what is learned from, and what is asked in evaluation. `genrec.data.splits` makes them.

Shapes: C cases, U' training sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.data.sequences import Sequences, offsets_of
from genrec.data.windows import merge_rows
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json, to_json, write_atomic
from genrec.semtok.tables import read_table, require_types

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

FILE = "split.json"
_CASES: dict[str, PolarsDataType] = {
    "case_id": pl.String, "user_id": pl.String, "history": pl.List(pl.Int32), "target": pl.Int32,
    "same_day": pl.Boolean, "cold": pl.Boolean,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cases:
    """Evaluation cases: a history and the item that came next. A user may have several.

    Attributes:
        case_ids: C different ids: the user's where every user has one case, else "USER/1", "USER/2", ….
        user_ids: C ids.
        histories: C sequences of catalogue rows, what the user interacted with before the target, as it happened.
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

    def take(self, index: NDArray[np.int64]) -> Cases:
        """Some of the cases, in the order of `index`."""
        return Cases(
            tuple(self.case_ids[i] for i in index),
            tuple(self.user_ids[i] for i in index),
            self.histories.take(index),
            self.targets[index],
            None if self.same_day is None else self.same_day[index],
            self.cold[index],
        )

    def sample(self, n: int, seed: int) -> Cases:
        """At most `n` of the cases, drawn by seed, in their order."""
        if len(self) <= n:
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:n]))


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

    @property
    def rows(self) -> list[NDArray[np.int32]]:
        """The catalogue rows that each part names."""
        cases = [rows for part in (self.valid, self.test) for rows in (part.histories.values, part.targets)]
        return [self.train.values, self.cold_items, *cases]

    @property
    def last_row(self) -> int:
        """The highest of them; -1 where there is none."""
        return max(int(rows.max(initial=-1)) for rows in self.rows)

    def save(self, folder: Path) -> None:
        """Write `train.parquet`, `valid.parquet`, `test.parquet` and `split.json` into an existing folder."""
        train = {"user_id": pl.Series(self.train_user_ids, dtype=pl.String), "items": _to_lists(self.train)}
        pl.DataFrame(train).write_parquet(folder / "train.parquet")
        for name, cases in (("valid", self.valid), ("test", self.test)):
            same_day = [None] * len(cases) if cases.same_day is None else cases.same_day
            columns = {
                "case_id": pl.Series(cases.case_ids, dtype=pl.String),
                "user_id": pl.Series(cases.user_ids, dtype=pl.String),
                "history": _to_lists(cases.histories),
                "target": pl.Series(cases.targets, dtype=pl.Int32),
                "same_day": pl.Series(same_day, dtype=pl.Boolean),
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
            known = {part: days_known[part] for part in ("valid", "test")}
            kinds = [type(name) is str, *(type(flag) is bool for flag in known.values())]
            if not all([*kinds, *(type(row) is int and 0 <= row < 2**31 for row in cold_items)]):
                raise TypeError("a value of another type")
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / FILE}: not a split of genrec ({error})") from None
        path = folder / "train.parquet"
        train = read_table(path, what="a split")
        require_types(train, path, {"user_id": pl.String, "items": pl.List(pl.Int32)})
        sequences, users = _from_lists(train["items"]), tuple(train["user_id"])
        valid, test = (_stored_cases(folder / f"{part}.parquet", days) for part, days in known.items())
        return cls(sequences, users, valid, test, name, np.asarray(cold_items, dtype=np.int32))

    def refit(self) -> Split:
        """The split once every choice is made: training histories continued by the validation cases, which are gone.

        Each event counts once (see `merge_rows`); cold items stay out. Users who appear only in validation come last.
        """
        rows = without_items(with_targets(self.valid.histories, self.valid.targets), self.cold_items)
        width = int(self.valid.histories.lengths.max(initial=0))
        users, train = merge_rows(self.valid.user_ids, rows, width, start=(self.train_user_ids, self.train))
        nobody = np.empty(0, dtype=np.int64)
        test = replace(self.test, cold=~among(self.test.targets, train.values))
        return replace(self, train=train, train_user_ids=users, valid=self.valid.take(nobody), test=test)


def without_items(sequences: Sequences, items: NDArray[np.int32]) -> Sequences:
    """The sequences without some items; they keep their number and may become empty."""
    keep = ~among(sequences.values, items)
    return Sequences(sequences.values[keep], offsets_of(keep)[sequences.offsets])


def among(rows: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which catalogue rows occur in `others`, bool of the shape of `rows`; linear where np.isin sorts."""
    present = np.zeros(max(rows.max(initial=0), others.max(initial=0)) + 1, dtype=np.bool_)
    present[others] = True
    return present[rows]


def with_targets(histories: Sequences, targets: NDArray[np.int32]) -> Sequences:
    """Each history with its target behind it."""
    offsets = histories.offsets + np.arange(len(histories) + 1)
    return Sequences(np.insert(histories.values, histories.offsets[1:], targets), offsets)


def _to_lists(sequences: Sequences) -> pl.Series:
    """Ragged rows as a list<int32> column."""
    flat = pl.DataFrame({"row": sequences.owners, "item": sequences.values})
    lists = flat.group_by("row", maintain_order=True).agg("item")
    every = pl.DataFrame({"row": np.arange(len(sequences))})
    joined = every.join(lists, on="row", how="left", maintain_order="left")["item"]
    return joined.fill_null(pl.Series([[]], dtype=pl.List(pl.Int32)))


def _from_lists(lists: pl.Series) -> Sequences:
    values = lists.explode(empty_as_null=False).to_numpy()
    return Sequences(values.astype(np.int32), offsets_of(lists.list.len()))


def _stored_cases(path: Path, days_known: bool) -> Cases:
    table = read_table(path, what="a split", may_be_empty=True)  # a refit has no validation cases
    require_types(table, path, _CASES, may_lack="" if days_known else "same_day")
    same_day = table["same_day"].to_numpy().astype(np.bool_) if days_known else None
    return Cases(
        tuple(table["case_id"]),
        tuple(table["user_id"]),
        _from_lists(table["history"]),
        table["target"].to_numpy(writable=True),
        same_day,
        table["cold"].to_numpy().astype(np.bool_),
    )
