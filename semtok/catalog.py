"""`Catalog`: the items that can be recommended, and the only place where an item's id becomes a row number.

Rows are append-only: what is learned per row (vectors, semantic IDs, trained weights) stays true when items are added,
and a withdrawn item is marked, never removed.

Shapes: N items.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.semtok.columns import STANDARD, Columns, Header, require_named
from genrec.semtok.errors import InputError
from genrec.semtok.tables import id_column, read_table, refuse_rows, require_types, row_number

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

FILE = "catalog.parquet"
_CSV_BOOLEANS = {"true": True, "false": False}  # in any case of letters
_PLAIN = (pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.Null, pl.List(pl.String))  # what attributes become
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Catalog:
    """The item table.

    Attributes:
        item_ids: N different ids, as text.
        titles: N titles; an empty one is allowed.
        attributes: N rows, every other column of the table as text, whole number, float, boolean or list of text.
        withdrawn: bool [N], items that are kept but never recommended.
        integer_ids: the table's ids were whole numbers (of a CSV file they are text), as lists then give them back.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    attributes: pl.DataFrame
    withdrawn: NDArray[np.bool_]
    integer_ids: bool = False

    def __post_init__(self) -> None:
        sizes = {len(self.item_ids), len(self.titles), len(self.withdrawn)}
        if self.attributes.width:
            sizes.add(self.attributes.height)
        if len(sizes) != 1:
            raise ValueError("item_ids, titles, attributes and withdrawn must have one length")

    @classmethod
    def from_file(cls, path: Path, columns: Columns = STANDARD) -> Catalog:
        """Read an item table with columns `item_id` and `title`; a boolean column `withdrawn` is understood.

        Args:
            path: see `read_table`.
            columns: what the table calls its columns.

        Raises:
            InputError: see `read_table`; no such column; an id is missing or is duplicated; a title is missing.
        """
        table = read_table(path, what="items")
        names = columns.of_items
        require_named([Header(path, table.columns, {name: names[name] for name in ("item_id", "title")})])
        ids, integer_ids = id_column(table, path, columns.item_id), _fits_int64(table[columns.item_id])
        _refuse_twice(ids, path)
        titles = _as_text(table[columns.title], path)
        refuse_rows(titles.is_null(), path, f"without {columns.title}")
        empty = titles.str.strip_chars() == ""
        if empty.any():
            count, first = empty.sum(), row_number(path, empty.arg_max() or 0)
            _log.warning("%s: %d of %d titles are empty, first at row %d", path, count, len(titles), first)
        withdrawn = np.zeros(len(ids), dtype=np.bool_)
        from_csv = path.name.lower().removesuffix(".gz").endswith(".csv")
        if columns.withdrawn in table.columns:
            marks = table[columns.withdrawn]
            if from_csv:
                marks = marks.str.to_lowercase().replace_strict(_CSV_BOOLEANS, default=None, return_dtype=pl.Boolean)
            if marks.dtype != pl.Boolean or marks.has_nulls():
                raise InputError(f"{path}: column {columns.withdrawn!r} must be true or false in every row")
            withdrawn = marks.to_numpy().copy()
        others = table.drop(*names.values(), strict=False)
        hidden = [name for name in names if name in others.columns]
        if hidden:  # a column of ours under its own name, beside the one that it was said to be
            _log.warning("%s: column %s is left out; --data.columns names another", path, ", ".join(hidden))
        attributes = _plain(others.drop(hidden), path, from_csv=from_csv)
        return cls(tuple(ids), tuple(titles), attributes, withdrawn, integer_ids)

    def save(self, folder: Path) -> None:
        """Write `catalog.parquet` into an existing folder; the same catalogue gives the same bytes."""
        columns = {"item_id": self.item_ids, "title": self.titles, "withdrawn": self.withdrawn}
        table = pl.DataFrame(columns, schema_overrides={"item_id": pl.String, "title": pl.String})
        table = table.with_columns(item_id=self.public_ids(np.arange(len(self))))
        table.hstack(self.attributes.get_columns()).write_parquet(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Catalog:
        """Read what `save` wrote; raises InputError where it is missing or broken."""
        table = read_table(folder / FILE, what="the catalogue")
        path = folder / FILE
        integer_ids = "item_id" in table.columns and table["item_id"].dtype == pl.Int64
        if integer_ids:
            table = table.with_columns(pl.col("item_id").cast(pl.String))
        require_types(table, path, {"item_id": pl.String, "title": pl.String, "withdrawn": pl.Boolean})
        _refuse_twice(table["item_id"], path)
        others = table.drop("item_id", "title", "withdrawn")
        for column in others.get_columns():
            if column.dtype not in _PLAIN:
                raise InputError(f"{path}: attribute {column.name!r} holds {column.dtype}, as no catalogue does")
        withdrawn = table["withdrawn"].to_numpy().copy()
        return cls(tuple(table["item_id"]), tuple(table["title"]), others, withdrawn, integer_ids)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    def row(self, item_id: str | int) -> int:
        """The row of an item, whose id may be a whole number; raises InputError naming an unknown id."""
        try:
            return self._row_of[item_id if isinstance(item_id, str) else str(item_id)]
        except KeyError:
            raise InputError(f"no item {item_id!r} in the catalogue") from None

    def find_row(self, item_id: str) -> int | None:
        """The row of an item, None of an unknown one."""
        return self._row_of.get(item_id)

    def public_ids(self, rows: NDArray[Any]) -> pl.Series:
        """Ids of some rows as the table had them: whole numbers where it had such, else text."""
        ids = pl.Series("item_id", [self.item_ids[row] for row in rows.tolist()], dtype=pl.String)
        return ids.cast(pl.Int64) if self.integer_ids else ids

    def rows(self, item_ids: Iterable[str | int]) -> NDArray[np.int32]:
        """The rows of some items, int32; raises InputError naming the first unknown id."""
        return np.fromiter((self.row(item_id) for item_id in item_ids), dtype=np.int32)

    def find(self, item_ids: pl.Series) -> NDArray[np.int32]:
        """The rows of a column of ids, int32, with -1 where an id is unknown or missing."""
        codes = item_ids.cast(pl.Enum(self.item_ids), strict=False).to_physical()
        return codes.cast(pl.Int32).fill_null(-1).to_numpy(writable=True)

    def text(self, row: int) -> str:
        """What an encoder reads of an item: "title. brand: X. categories: A, B." (see `texts`)."""
        values = self.attributes.row(row, named=True) if self.text_columns else {}
        return _describe(self.titles[row], {name: values[name] for name in self.text_columns})

    def texts(self, columns: Sequence[str] | None = None) -> list[str]:
        """The text of every item: title, then each attribute that is text or a list of texts, in column order.

        Numbers and columns of identifiers (no spaces, more than 50 values, most of them different) tell an encoder
        nothing and are left out.

        Args:
            columns: the `text_columns` of the catalogue whose items an encoder has read, for those that came later.
        """
        columns = self.text_columns if columns is None else columns
        if not columns:
            return [_describe(title, {}) for title in self.titles]
        rows = self.attributes.select(columns).iter_rows(named=True)
        return [_describe(title, values) for title, values in zip(self.titles, rows, strict=True)]

    @cached_property
    def text_columns(self) -> list[str]:
        """Attributes whose values are words; columns of identifiers are left out."""
        columns = [column for column in self.attributes.get_columns() if _is_text(column)]
        left_out = [column.name for column in columns if _is_identifier(column)]
        if left_out:
            _log.info("columns of identifiers are left out of the items' text: %s", ", ".join(left_out))
        return [column.name for column in columns if column.name not in left_out]

    def append(self, other: Catalog) -> Catalog:
        """This catalogue with another's items behind its own, null where one lacks an attribute; raises InputError
        where an item is in both, or an attribute is of another type in the other.
        """
        known = self.find(pl.Series(other.item_ids, dtype=pl.String)) >= 0
        if known.any():
            first = other.item_ids[int(np.argmax(known))]
            raise InputError(f"{known.sum()} new items are in the catalogue already, first {first!r}")
        for name in set(self.attributes.columns) & set(other.attributes.columns):
            _refuse_other_type(self.attributes[name], other.attributes[name])
        joined = pl.concat([self._with_ids(), other._with_ids()], how="diagonal_relaxed").drop("item_id")
        withdrawn = np.concatenate([self.withdrawn, other.withdrawn])
        integer_ids = self.integer_ids and (other.integer_ids or all(map(_is_whole_number, other.item_ids)))
        ids, titles = self.item_ids + other.item_ids, self.titles + other.titles
        return Catalog(ids, titles, joined, withdrawn, integer_ids)

    def _with_ids(self) -> pl.DataFrame:
        """The attributes beside the ids, so that a catalogue without attributes has N rows too."""
        ids = pl.DataFrame({"item_id": self.item_ids}, schema={"item_id": pl.String})
        return ids.hstack(self.attributes.get_columns())


def _describe(title: str, values: Mapping[str, Any]) -> str:
    parts = [title.strip()]
    for name, value in values.items():
        words = ", ".join(v for v in value if v) if isinstance(value, list) else (value or "")
        if words.strip():
            parts.append(f"{name}: {words.strip()}")
    return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts if part)


def _fits_int64(column: pl.Series) -> bool:
    return column.dtype.is_integer() and not column.cast(pl.Int64, strict=False).has_nulls()


def _is_whole_number(item_id: str) -> bool:
    """Whether an id of a CSV file is what a whole number is written as."""
    return item_id.isascii() and item_id.removeprefix("-").isdecimal() and str(int(item_id)) == item_id


def _refuse_twice(ids: pl.Series, path: Path) -> None:
    twice = ids.is_duplicated()
    if not twice.any():
        return
    again = ~ids.is_first_distinct()
    second = again.arg_max() or 0
    first = (ids == ids[second]).arg_max() or 0
    rows = f"rows {row_number(path, first)} and {row_number(path, second)}"
    others = f" ({again.sum():,} rows repeat an id)" if again.sum() > 1 else ""
    raise InputError(f"{path}: item {ids[second]!r} is duplicated, in {rows}{others}")


def _refuse_other_type(ours: pl.Series, theirs: pl.Series) -> None:
    alike = ours.dtype == theirs.dtype or (ours.dtype.is_numeric() and theirs.dtype.is_numeric())
    if not (alike or pl.Null in (ours.dtype, theirs.dtype)):
        raise InputError(
            f"attribute {ours.name!r} holds {theirs.dtype} in the new items, {ours.dtype} in the catalogue"
        )


def _plain(table: pl.DataFrame, path: Path, *, from_csv: bool) -> pl.DataFrame:
    """Attributes as text, whole numbers, floats, booleans or lists of text: what filters and encoders understand."""
    columns = []
    for column in table.get_columns():
        if from_csv:
            column = _number_if_all_are(column.replace("", None))
        columns.append(_plain_column(column, path))
    return pl.DataFrame(columns)


def _plain_column(column: pl.Series, path: Path) -> pl.Series:
    dtype = column.dtype
    if column.null_count() == len(column):
        return pl.Series(column.name, [None] * len(column))  # no type yet: items that are appended bring one
    if _holds_bytes(dtype):
        raise InputError(f"{path}: column {column.name!r} holds {dtype}, which is no text, number, truth value or date")
    if isinstance(dtype, pl.Struct):
        return column.to_frame().select(_json_unless_null(pl.col(column.name))).to_series()
    if isinstance(dtype, (pl.List, pl.Array)):
        inner = column.explode(empty_as_null=False)
        if isinstance(inner.dtype, (pl.Struct, pl.List, pl.Array)):
            if not isinstance(inner.dtype, pl.Struct):
                raise InputError(f"{path}: attribute {column.name!r} holds lists of lists; use lists of text")
            texts = pl.col(column.name).list.eval(_json_unless_null(pl.element()))
            return column.to_frame().select(texts).to_series()
        try:
            return column.cast(pl.List(pl.String))
        except pl.exceptions.PolarsError:
            raise InputError(f"{path}: column {column.name!r} holds {dtype}; use lists of text") from None
    if dtype.is_integer():
        return _unless_lossy(column, pl.Int64())
    if dtype == pl.Float32:  # 12.99 stays 12.99
        column = column.cast(pl.String)
    if dtype.is_float() or dtype.is_decimal():
        return column.cast(pl.Float64).fill_nan(None)  # not a number is no value: it would pass every lower limit
    return column if dtype == pl.Boolean else _as_text(column, path)


def _holds_bytes(dtype: PolarsDataType) -> bool:
    """Whether a column has binary data at any depth."""
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(part.dtype) for part in dtype.fields)
    if isinstance(dtype, (pl.List, pl.Array)):
        return _holds_bytes(dtype.inner)
    return dtype == pl.Binary


def _json_unless_null(value: pl.Expr) -> pl.Expr:
    return pl.when(value.is_not_null()).then(value.struct.json_encode())


def _number_if_all_are(column: pl.Series) -> pl.Series:
    """A CSV column as numbers if every filled cell is one; "007" is no number but a name."""
    filled = column.drop_nulls()
    if filled.is_empty() or not filled.str.contains(r"^-?(0|[1-9]\d*)(\.\d+)?$").all():
        return column
    return _unless_lossy(column, pl.Float64() if filled.str.contains(".", literal=True).any() else pl.Int64())


def _unless_lossy(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """As numbers; as text where they do not fit, as tracking codes and hashes do not."""
    numbers = column.cast(dtype, strict=False)
    return numbers if numbers.null_count() == column.null_count() else column.cast(pl.String)


def _as_text(column: pl.Series, path: Path) -> pl.Series:
    with contextlib.suppress(pl.exceptions.PolarsError):
        if not column.dtype.is_nested():
            return column.cast(pl.String)
    raise InputError(
        f"{path}: column {column.name!r} holds {column.dtype}, which is no text, number, truth value or date"
    )


def _is_text(column: pl.Series) -> bool:
    return column.dtype in (pl.String, pl.List(pl.String))


def _is_identifier(column: pl.Series) -> bool:
    if column.dtype != pl.String:
        return False
    filled = column.drop_nulls()
    # In a small table a column of brands has no more repeats than one of codes; it takes many values to tell.
    return not filled.str.contains(" ", literal=True).any() and filled.n_unique() > max(0.5 * len(filled), 50)
