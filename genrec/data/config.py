"""`DataConfig`: what is read, and how it is split; light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from genrec.semtok import options as check
from genrec.semtok.columns import Columns
from genrec.semtok.errors import OptionError, did_you_mean_file

TimeUnit = Literal["seconds", "days", "position"]


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it is split.

    Attributes:
        items: item table (JSONL, CSV or Parquet) with item_id and title, or what `columns` calls them.
        interactions: log with user_id, item_id, timestamp.
        split: leave_last_out, by_time, or given (train.csv, valid.csv and test.csv in `splits`).
        splits: folder of a given split.
        time_unit: unit of the timestamps; null recognises it or asks.
        valid_share: by_time: share of events for validation.
        test_share: by_time: share of events for the test.
        cold_share: share of items stripped from every training history, to measure cold items.
        exclude_seen: leave items that a user has had out of their lists; null: where nobody had an item twice.
        columns: what the two tables call their columns.
    """

    items: str = ""
    interactions: str = ""
    split: Literal["leave_last_out", "by_time", "given"] = "leave_last_out"
    splits: str | None = None
    time_unit: TimeUnit | None = None
    valid_share: float = 0.1
    test_share: float = 0.1
    cold_share: float = 0.0
    exclude_seen: bool | None = None
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        check.path(self, "items", "interactions", "splits")
        for name in ("items", "interactions"):
            path = getattr(self, name)
            if not path:
                raise OptionError(name, f"is missing: the path of the {name} table")
            if not Path(path).is_file():
                raise OptionError(name, f"{path}: no such file{did_you_mean_file(path)}")
        if (self.split == "given") != (self.splits is not None):
            raise OptionError("split", f"{self.split}: split given and splits FOLDER go together")
        if self.splits is not None and not Path(self.splits).is_dir():
            raise OptionError("splits", f"{self.splits}: no such folder{did_you_mean_file(self.splits)}")
        if self.split == "given" and self.cold_share:
            raise OptionError("cold_share", f"{self.cold_share}: a given split is taken as it is; none is drawn cold")
