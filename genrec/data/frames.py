"""Data frames as files: polars, pandas and Arrow tables become Parquet, which every stage reads like any table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import polars as pl

from genrec.semtok.errors import InputError


class ArrowTable(Protocol):
    """A data frame of any library that speaks Arrow: polars, pandas, pyarrow, duckdb, …"""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


MARK = "genrec.frame"  # in the metadata of the files
Table: TypeAlias = str | Path | ArrowTable | pl.LazyFrame


def is_frame(table: Table) -> bool:
    """Whether a table is no path."""
    return not isinstance(table, str | os.PathLike)


@contextmanager
def as_file(table: Table, name: str) -> Iterator[Path]:
    """The path of a table: a path as it is, a data frame as NAME.parquet in a folder that goes when the block ends;
    raises InputError where it is neither.
    """
    if not is_frame(table):
        yield Path(str(table))
        return
    with tempfile.TemporaryDirectory(prefix="genrec-") as folder:
        path = Path(folder) / f"{name}.parquet"
        as_frame(table, name).write_parquet(path, metadata={MARK: name})
        yield path


def as_frame(table: Any, name: str) -> pl.DataFrame:
    """A data frame of any kind as one of polars; raises InputError where it is none."""
    if isinstance(table, pl.DataFrame | pl.LazyFrame):
        return table.lazy().collect()
    if type(table).__module__.partition(".")[0] == "pandas" and hasattr(table, "columns"):
        return pl.DataFrame([_column(str(label), table[label]) for label in table.columns])
    if hasattr(table, "__arrow_c_stream__"):
        return pl.DataFrame(table)
    raise InputError(f"{name}: {type(table).__name__} is neither a path nor a polars, pandas or Arrow table")


def _column(name: str, column: Any) -> pl.Series:
    """A pandas column; what numpy cannot hold goes by its values, for which polars would want pyarrow."""
    if getattr(column.dtype, "kind", "O") in "biufM" and hasattr(column.dtype, "itemsize") and not column.hasnans:
        values = column.to_numpy()
        if values.dtype.kind in "biufM":
            return pl.Series(name, values)
    return pl.Series(name, column.astype(object).where(column.notna(), None).tolist(), strict=False)
