"""`Recommendations`: ranked lists with titles, for users, histories, items or queries; they may be shorter than asked.

    lists = recommender.recommend(users=["ann", "ben"], k=3)
    lists                       # a small table
    lists[0][0].title           # the first item of the first list
    lists.to_polars()           # user_id, rank, item_id, title, score, reason; to_pandas() gives the same

Inside genrec lists are `RankedRows`, without names: catalogue rows, scores and reasons.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.data.sequences import Sequences, offsets_of
from genrec.semtok.catalog import Catalog

if TYPE_CHECKING:
    import pandas as pd

Asked = Literal["user_id", "history", "target_item_id", "query"]
_SHOWN, _REASONS = 30, 3  # rows of a table that is looked at, and reasons of short lists below it


@dataclass(frozen=True, eq=False)
class RankedRows:
    """Ragged ranked lists of catalogue rows.

    Attributes:
        rows: catalogue rows, best first, one sequence a list, B of them.
        scores: float32, aligned with `rows.values`; comparable within a list.
        reasons: why a list is shorter than K, or None where it is full.
    """

    rows: Sequences
    scores: NDArray[np.float32]
    reasons: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.reasons):
            raise ValueError(f"{len(self.rows)} lists and {len(self.reasons)} reasons")
        if len(self.scores) != len(self.rows.values):
            raise ValueError(f"{len(self.rows.values)} items but {len(self.scores)} scores")

    @classmethod
    def from_padded(
        cls, rows: NDArray[np.int32], scores: NDArray[np.float32], reasons: tuple[str | None, ...]
    ) -> RankedRows:
        """Build from [B, K] arrays in which -1 pads a list at its end."""
        kept = rows >= 0
        lists = Sequences(rows[kept].astype(np.int32), offsets_of(kept.sum(axis=1)))
        return RankedRows(lists, scores[kept].astype(np.float32), reasons)

    def __len__(self) -> int:
        return len(self.rows)


class RankedItem(NamedTuple):
    """An item of a list."""

    item_id: str | int
    title: str
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Recommendations(RankedRows):
    """Ranked lists with the names of what was asked for: a sequence of lists of `RankedItem`.

    Attributes:
        rows, scores, reasons: see `RankedRows`.
        catalog: whose rows these are.
        ids: what was asked for, one a list: users, numbers of histories, items or queries.
        asked: which of these; the name of their column.
    """

    catalog: Catalog
    ids: tuple[str | int, ...]
    asked: Asked

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.ids) != len(self.rows):
            raise ValueError(f"{len(self.ids)} ids and {len(self.rows)} lists")

    @classmethod
    def of(cls, lists: RankedRows, catalog: Catalog, ids: Sequence[str | int], asked: Asked) -> Recommendations:
        """Ranked rows with their names."""
        return cls(lists.rows, lists.scores, lists.reasons, catalog, tuple(ids), asked)

    def __getitem__(self, index: int) -> list[RankedItem]:
        index = range(len(self))[index]
        rows, scores = self.rows[index], self.scores[self.rows.offsets[index] : self.rows.offsets[index + 1]]
        found = zip(self.catalog.public_ids(rows), rows.tolist(), scores.tolist(), strict=True)
        return [RankedItem(item_id, self.catalog.titles[row], score) for item_id, row, score in found]

    def __iter__(self) -> Iterator[list[RankedItem]]:
        return (self[index] for index in range(len(self)))

    def pairs(self, index: int = 0) -> list[tuple[str, float]]:
        """(item id as text, score) of a list, as the server and the chat keep items."""
        rows, scores = self.rows[index], self.scores[self.rows.offsets[index] : self.rows.offsets[index + 1]]
        return [(self.catalog.item_ids[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]

    def to_polars(self) -> pl.DataFrame:
        """A row an item: what was asked for (`user_id`, say), rank from 1, item_id, title, score, and why the list is
        short, where it is. A list without items has no row: see `reasons`."""
        owners = self.rows.owners
        names: list[pl.Series] = [
            pl.Series(self.asked, self.ids, dtype=None if self.ids else pl.String, strict=False).gather(owners),
            pl.Series("rank", np.arange(len(owners)) - self.rows.offsets[owners] + 1),
            self.catalog.public_ids(self.rows.values),
            pl.Series("title", [self.catalog.titles[row] for row in self.rows.values.tolist()], dtype=pl.String),
            pl.Series("score", self.scores),
            pl.Series("reason", self.reasons, dtype=pl.String).gather(owners),
        ]
        return pl.DataFrame(names)

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas data frame; pandas must be installed."""
        import pandas as pd

        return pd.DataFrame(self.to_polars().to_dict(as_series=False))

    def __repr__(self) -> str:
        with _looked_at():
            return "\n".join([self._told(), str(self._shown()), *self._why_short()])

    def _repr_html_(self) -> str:
        with _looked_at():
            told = "".join(f"<p>{html.escape(line)}</p>" for line in (self._told(), *self._why_short()))
            return f"{told}{self._shown()._repr_html_()}"

    def _told(self) -> str:
        items, lists = len(self.rows.values), len(self)
        told = f"{lists:,} {'list' if lists == 1 else 'lists'}, {items:,} {'item' if items == 1 else 'items'}"
        return told + (f"; the first {_SHOWN}:" if items > _SHOWN else "")

    def _shown(self) -> pl.DataFrame:
        """The first rows, without reasons."""
        last = min(int(np.searchsorted(self.rows.offsets, _SHOWN)), len(self))  # a million lists are not made a table
        rows, scores = self.rows.take(np.arange(last)), self.scores[: self.rows.offsets[last]]
        first = replace(self, rows=rows, scores=scores, reasons=self.reasons[:last], ids=self.ids[:last])
        return first.to_polars().head(_SHOWN).drop("reason")

    def _why_short(self) -> list[str]:
        short = [index for index, reason in enumerate(self.reasons) if reason is not None]
        lines = [f"{self.asked} {self.ids[index]}: {self.reasons[index]}" for index in short[:_REASONS]]
        return lines + ([f"and {len(short) - _REASONS:,} more short lists"] if len(short) > _REASONS else [])


def _looked_at() -> Any:
    return pl.Config(
        tbl_rows=_SHOWN, tbl_cols=-1, fmt_str_lengths=60, tbl_hide_column_data_types=True, tbl_width_chars=140,
        tbl_hide_dataframe_shape=True, tbl_formatting="ASCII_BORDERS_ONLY_CONDENSED", float_precision=4,
    )  # fmt: skip
