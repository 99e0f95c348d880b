"""Reading a person's tables: JSONL, CSV or Parquet, plain or gzip, with one line for whatever is wrong with them.

A row number in a message is what an editor or a spreadsheet shows: the line of a JSONL file, the row of a CSV file with
its header as row 1, the record of a Parquet file counted from 1.

CSV knows no types and no missing values: every column comes back as text as it is spelled ("007" stays "007"), an empty
cell as "".
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import polars as pl

from genrec.semtok.errors import InputError, first_line, listed

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

_KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def read_table(
    path: Path, *, what: str, schema: Mapping[str, pl.DataType] | None = None, may_be_empty: bool = False
) -> pl.DataFrame:
    """Read a whole table; the name decides the format, `.gz` behind it is unpacked.

    Args:
        path: a file `*.jsonl`, `*.json` (one object a line), `*.csv` or `*.parquet`, or any of these with `.gz`.
        what: what the table holds, for messages ("items", "interactions").
        schema: of a JSONL file whose other columns are not wanted (review texts, say): columns and their types; a key
            that a row lacks is null.
        may_be_empty: a table without rows is one.

    Raises:
        InputError: the file is missing, empty, truncated, not UTF-8 or broken; names the file and, where one is to
            blame, the row.
    """
    kind = _kind(path, what)
    if not is_file(path):
        raise InputError(f"{path}: no such file ({what})")
    try:
        with open_plain(path) as data:
            start = data.read(4096)
        if not start:
            raise InputError(f"{path}: the file is empty ({what})")
        if kind != "parquet" and (encoding := _other_encoding(start)):
            raise InputError(f'{path}: the text is {encoding}, not UTF-8; save it again as UTF-8 ("CSV UTF-8")')
        table = _parse(path, kind, schema)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error) as error:
        _blame(path, kind, error)
    if kind == "csv":
        _check_header(table.columns, path)
        table = _without_blank_end(table)
        _refuse_short_rows(table, path)
    if table.height == 0 and not may_be_empty:
        raise InputError(f"{path}: no rows ({what})")
    return table


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file system takes is none."""
    try:
        return path.is_file()
    except OSError:  # too long
        return False


def _other_encoding(start: bytes) -> str | None:
    """What a text is encoded in that is no UTF-8, by its byte order mark or its many NULs."""
    for name in ("utf_32_le", "utf_32_be", "utf_16_le", "utf_16_be"):  # the mark of UTF-32 begins with that of UTF-16
        if start.startswith("\ufeff".encode(name)):
            return name[:6].upper().replace("_", "-")
    nuls = start.count(0)
    return "UTF-32" if nuls > len(start) // 2 else "UTF-16" if nuls > len(start) // 4 else None


def row_number(path: Path, index: int) -> int:
    """The number under which a person finds record `index` (from 0) in the file; see the module's text."""
    kind = _KINDS.get(_plain_suffix(path))
    if kind != "jsonl":
        return index + 2 if kind == "csv" else index + 1
    with open_plain(path) as lines:
        filled = (number for number, line in enumerate(lines, start=1) if line.strip())
        return next(number for seen, number in enumerate(filled) if seen == index)


def column_names(path: Path) -> list[str] | None:
    """The columns of a table by its beginning, without reading it; None where reading it will say what is wrong."""
    kind = _KINDS.get(_plain_suffix(path))
    try:
        with open_plain(path) as data:
            if kind == "csv":
                return next(csv.reader(io.TextIOWrapper(data, encoding="utf-8-sig", newline=""), strict=True), None)
            if kind == "jsonl":
                rows = [json.loads(line) for line in itertools.islice(data, 1000) if line.strip()]
                objects = all(isinstance(row, dict) for row in rows)
                return list(dict.fromkeys(name for row in rows for name in row)) if objects else None
            return list(pl.read_parquet_schema(data))
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, ValueError, TypeError, RecursionError, csv.Error):
        return None


def require_columns(table: pl.DataFrame, path: Path, names: Sequence[str]) -> None:
    """Raise InputError naming the columns that are missing and those that are there."""
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(f"{path}: no column {listed(missing)}; it has {listed(table.columns) or 'none'}")


def require_types(table: pl.DataFrame, path: Path, types: Mapping[str, PolarsDataType], may_lack: str = "") -> None:
    """Of a table that genrec wrote: raise InputError where a column is missing, of another type, or has empty cells.

    Args:
        may_lack: the one column that may have empty cells.
    """
    require_columns(table, path, list(types))
    for name, dtype in types.items():
        if table[name].dtype != dtype:
            raise InputError(f"{path}: column {name!r} holds {table[name].dtype}, not {dtype}")
        if name != may_lack and (table[name].has_nulls() or _inner_nulls(table[name])):
            raise InputError(f"{path}: column {name!r} has empty cells")


def _inner_nulls(column: pl.Series) -> bool:
    return isinstance(column.dtype, pl.List) and column.explode(empty_as_null=False).has_nulls()


def id_column(table: pl.DataFrame, path: Path, name: str) -> pl.Series:
    """A column of ids as text, whatever its type in the file.

    Raises:
        InputError: an id is missing or empty (the first row and the count), or the column holds neither text nor whole
            numbers.
    """
    column = table[name]
    if column.dtype == pl.Null:
        column = column.cast(pl.String)
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise InputError(f"{path}: column {name!r} holds {column.dtype}, ids are text or whole numbers")
    column = column.cast(pl.String)
    refuse_rows(column.is_null() | (column == ""), path, f"without {name}")
    # JSON may escape one half of a surrogate pair, which is no character: it is read as NUL.
    broken = column.str.contains("\0", literal=True)
    refuse_rows(broken, path, f"with NUL or half of a surrogate pair in {name}", values=column)
    return column


def refuse_rows(bad: pl.Series, path: Path, problem: str, *, values: pl.Series | None = None) -> None:
    """Raise InputError "FILE: n rows PROBLEM, first at row r: VALUE" if any row is marked in `bad` (nulls count).

    `problem` begins with "with" or "without", to read well behind one row and behind many.
    """
    bad = bad.fill_null(True)
    count = bad.sum()
    if count:
        first = bad.arg_max()
        assert first is not None
        shown = "" if values is None else f": {values[first]!r}"
        noun = "row" if count == 1 else "rows"
        raise InputError(f"{path}: {count:,} {noun} {problem}, first at row {row_number(path, first)}{shown}")


def _kind(path: Path, what: str) -> str:
    suffix = _plain_suffix(path)
    if suffix not in _KINDS:
        raise InputError(f"{path}: {what} must be a .jsonl, .csv or .parquet file, plain or with .gz behind it")
    return _KINDS[suffix]


def _plain_suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _parse(path: Path, kind: str, schema: Mapping[str, pl.DataType] | None) -> pl.DataFrame:
    # polars unpacks gzip by itself, except around Parquet, and takes "[" in a path for a glob unless told not to.
    if kind == "csv":
        return pl.read_csv(path, infer_schema=False, empty_string_is_null=False, glob=False)
    if kind == "parquet":
        with open_plain(path) as data:
            return pl.read_parquet(data.read() if path.suffix == ".gz" else path, glob=False)
    with open(path, "rb") as data:
        return pl.read_ndjson(data, schema=schema, infer_schema_length=None)


def _check_header(columns: Sequence[str], path: Path) -> None:
    twice = [name.removesuffix("_duplicated_0") for name in columns if name.endswith("_duplicated_0")]
    if twice:
        raise InputError(f"{path}: column {listed(twice)} is duplicated in the header")


def _without_blank_end(table: pl.DataFrame) -> pl.DataFrame:
    """Drop the rows that polars makes of blank lines at the end of a CSV file."""
    height = table.height
    while height and all(value == "" or value is None for value in table.row(height - 1)):
        height -= 1
    return table.head(height)


def _refuse_short_rows(table: pl.DataFrame, path: Path) -> None:
    """polars fills a row that ends early with empty cells; where the last cell is filled, none did."""
    if table.width > 1 and (table.to_series(-1) == "").any():
        with open_plain(path) as lines:
            complaint = next(_broken_csv(lines), None)
        if complaint:
            raise InputError(f"{path}: {complaint}")


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked if its name ends in `.gz`."""
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]


def _blame(path: Path, kind: str, error: BaseException) -> NoReturn:
    """Find the first row that a strict reader refuses, slowly, and raise InputError naming it."""
    try:
        with open_plain(path) as lines:
            complaint = "not a whole Parquet file" if kind == "parquet" else _broken_text(lines)
        with open_plain(path) as lines:
            complaint = complaint or next(_broken_json(lines) if kind == "jsonl" else _broken_csv(lines), None)
        with open_plain(path) as lines:
            complaint = complaint or (_bare_quote(lines) if kind == "csv" else None)
    except (OSError, EOFError, zlib.error) as broken:
        raise InputError(f"{path}: not a whole gzip file ({first_line(broken)})") from None
    raise InputError(f"{path}: {complaint or f'cannot be read ({first_line(error)})'}") from None


def _broken_text(lines: IO[bytes]) -> str | None:
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as bad:
            return f"line {number} is not UTF-8 ({bad.reason} at byte {bad.start + 1})"
    return None


def _broken_json(lines: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line.decode().strip(), parse_constant=_refuse_constant)
            except json.JSONDecodeError as error:
                yield f"row {number} is not JSON ({error.msg} at column {error.colno})"
            except RecursionError:
                yield f"row {number} is nested too deeply"
            except ValueError as error:
                yield f"row {number} is not JSON ({error})"
            else:
                if not isinstance(value, dict):
                    yield f"row {number} is not a JSON object but {type(value).__name__}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _broken_csv(lines: IO[bytes]) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)  # a long description is no broken row
    reader = csv.reader(io.TextIOWrapper(lines, encoding="utf-8-sig", newline=""), strict=True)
    width = len(next(reader, ()))
    number = 1
    try:
        for number, row in enumerate(reader, start=2):
            if row and len(row) != width:
                yield f"row {number} has {len(row)} field{'s' if len(row) > 1 else ''}, the header {width}"
    except csv.Error as error:
        yield f"row {number + 1} is not CSV ({error})"


def _bare_quote(lines: IO[bytes]) -> str | None:
    """What polars refuses of a CSV file without saying where, and a strict reader takes."""
    for number, line in enumerate(lines, start=1):
        if re.search(rb'(?:^|,)[^",\r\n]+"', line):
            return f'line {number} has a quote inside a field without quotes around it: 5" is written "5"""'
    return None
