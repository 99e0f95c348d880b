"""`Interactions`: who interacted with what, and when: the validated log that splits and histories are made of.

Shapes: U users, E events.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.data.config import TimeUnit
from genrec.data.sequences import Sequences, offsets_of
from genrec.data.timestamps import Instants, parse_timestamps, settle_unit
from genrec.semtok.catalog import Catalog
from genrec.semtok.columns import STANDARD, Columns, Header, require_named
from genrec.semtok.tables import id_column, read_table, refuse_rows

__all__ = ["Interactions", "TimeUnit"]


@dataclass(frozen=True, eq=False)
class Interactions:
    """Every user's history. Repeated events stay: an item bought twice is there twice.

    Attributes:
        user_ids: U ids, in the order in which they first appear in the file.
        histories: U sequences of catalogue rows, oldest first; events of one time stay in file order.
        times: int64 [E] beside `histories.values`: unix seconds, or any numbers for `position`.
        time_unit: `seconds`, `days` (unix seconds at midnight: the order inside a day is the file's) or `position`.
    """

    user_ids: tuple[str, ...]
    histories: Sequences
    times: NDArray[np.int64]
    time_unit: TimeUnit

    def __post_init__(self) -> None:
        if len(self.user_ids) != len(self.histories) or len(self.times) != len(self.histories.values):
            raise ValueError("one history a user and one time an event")

    @classmethod
    def from_file(
        cls, path: Path, catalog: Catalog, *, time_unit: TimeUnit | None = None, columns: Columns = STANDARD
    ) -> Interactions:
        """Read a log with columns `user_id`, `item_id`, `timestamp`; other columns are not used.

        Args:
            path: see `read_table`.
            catalog: the items that the log may name.
            time_unit: the unit of `timestamp`; None recognises it (see `genrec.data.timestamps`).
            columns: what the table calls its columns.

        Raises:
            InputError: see `read_table`; a missing value, an item that is not in the catalogue or a bad timestamp (the
                first such row and the count); timestamps of no known unit.
        """
        table = read_table(path, what="interactions")
        called = columns.of_log
        require_named([Header(path, table.columns, called)])
        users = id_column(table, path, called["user_id"])
        items = id_column(table, path, called["item_id_in_log"])
        rows = catalog.find(items)
        refuse_rows(pl.Series(rows < 0), path, "with an item that is not in the item table", values=items)
        instants = parse_timestamps(table[called["timestamp"]], path)

        names, codes = _number_users(users)
        order = _order(codes, instants.values, len(names))
        offsets = offsets_of(np.bincount(codes, minlength=len(names)))
        sorted_instants = Instants(instants.values[order], instants.per_unit, instants.from_dates)
        times, unit = settle_unit(sorted_instants, offsets, time_unit, path)
        return cls(names, Sequences(rows[order], offsets), times, unit)


def _number_users(users: pl.Series) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """The different users in order of appearance, and every event's number among them, int32 [E]."""
    names = users.unique(maintain_order=True)
    return tuple(names), users.cast(pl.Enum(names)).to_physical().cast(pl.Int32).to_numpy()


def _order(users: NDArray[np.int32], instants: NDArray[np.int64], n_users: int) -> NDArray[np.int64]:
    """The stable order by user, then time, int64 [E]."""
    table = pl.DataFrame({"user": users, "time": instants, "event": np.arange(len(users))})
    low, high = int(instants.min()), int(instants.max())
    if n_users * (high - low + 1) < 2**63:
        # One integer key sorts about ten times faster than two columns.
        key = pl.col("user").cast(pl.Int64) * (high - low + 1) + (pl.col("time") - low)
        return table.select("event", key=key).sort("key", maintain_order=True)["event"].to_numpy()
    return table.sort("user", "time", maintain_order=True)["event"].to_numpy()
