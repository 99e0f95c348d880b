"""Amazon reviews of 2014, 2018 and 2023 (McAuley Lab, UCSD), from the files as they are offered, plain or gzip.

| year | reviews | metadata | item | time |
|---|---|---|---|---|
| 2014 | `reviews_Beauty[_5].json.gz` | `meta_Beauty.json.gz`, lines of Python literals | `asin` | seconds |
| 2018 | `All_Beauty[_5].json.gz` | `meta_All_Beauty.json.gz` | `asin` | seconds |
| 2023 | `All_Beauty.jsonl.gz`, or the ratings-only CSV | `meta_All_Beauty.jsonl.gz` | `parent_asin` | milliseconds |

McAuley et al., "Image-based recommendations on styles and substitutes" (2015); Ni et al., "Justifying recommendations
using distantly-labeled reviews" (2019); Hou et al., "Bridging language and items for retrieval and recommendation"
(2024).
"""

from __future__ import annotations

import ast
import html
import json
import logging
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl
from tqdm import tqdm

from genrec.data.importers.writing import Imported, check_out, write_tables
from genrec.semtok.errors import InputError
from genrec.semtok.tables import id_column, open_plain, read_table, refuse_rows, require_columns

Year = Literal[2014, 2018, 2023]
_REVIEW_COLUMNS = {
    2014: ("reviewerID", "asin", "unixReviewTime", "overall"),
    2018: ("reviewerID", "asin", "unixReviewTime", "overall"),
    2023: ("user_id", "parent_asin", "timestamp", "rating"),
}
_TAG = re.compile(r"<[^<>]+>")
_PRICE = re.compile(r"^\$?\s*(\d[\d,]*(?:\.\d+)?)$")
# A page's script that the 2018 crawl took for a title; its documentation advises to drop titles with this word.
_SCRIPT = "getTime"
_log = logging.getLogger(__name__)


def import_amazon(reviews: Path, metadata: Path, out: Path, *, year: Year, k_core: int = 5) -> Imported:
    """Write `items.jsonl` and `interactions.csv` from one category's reviews and metadata.

    A review is an event: its rating is written beside it but filters nothing. Times are written as they are. Those of
    2014 and 2018 have day granularity, and events of one day stay in the review file's order, which is the catalogue's.

    Args:
        reviews: the review file.
        metadata: the metadata file; the first line of an item counts.
        out: a new folder, or one that an earlier import wrote.
        year: of the data set's release.
        k_core: users and items keep at least so many events; 0 keeps all.

    Raises:
        InputError: a file is missing, broken or of another year; names file and row.
    """
    check_out(out)
    items = _read_metadata(metadata, year)
    events = _read_reviews(reviews, year)
    source = {"format": f"amazon-{year}", "reviews": reviews.name, "metadata": metadata.name}
    return write_tables(events, items, out, k=k_core, source=source)


def _read_reviews(path: Path, year: Year) -> pl.DataFrame:
    user, item, time, rating = _REVIEW_COLUMNS[year]
    schema = {user: pl.String(), item: pl.String(), time: pl.Int64(), rating: pl.Float64()}
    table = read_table(path, what="reviews", schema=schema)
    require_columns(table, path, (user, item, time, rating))
    users, items = id_column(table, path, user), id_column(table, path, item)
    times = table[time].cast(pl.Int64, strict=False)
    refuse_rows(times.is_null(), path, f"without {time} as a whole number", values=table[time])
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times, "rating": table[rating]})


def _read_metadata(path: Path, year: Year) -> dict[str, dict[str, Any]]:
    describe = {2014: _item_2014, 2018: _item_2018, 2023: _item_2023}[year]
    key = "parent_asin" if year == 2023 else "asin"
    items: dict[str, dict[str, Any]] = {}
    repeated = 0
    for number, value in _objects(path, literal=year == 2014):
        item_id = value.get(key)
        if not isinstance(item_id, str) or not item_id:
            raise InputError(f"{path}: row {number} has no {key!r}; is this the {year} metadata file?")
        if item_id in items:
            repeated += 1
        else:
            items[item_id] = describe(value)
    if repeated:
        _log.info("%s: %d rows repeat an item; the first counts", path, repeated)
    return items


def _objects(path: Path, *, literal: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers and objects of a file of JSON lines, or of lines of Python literals."""
    if not path.is_file():
        raise InputError(f"{path}: no such file (metadata)")
    try:
        with open_plain(path) as lines:
            for number, line in enumerate(tqdm(lines, desc=path.name, unit=" items", disable=None), start=1):
                if line.strip():
                    yield number, _object(line, path, number, literal=literal)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error})") from None


def _object(line: bytes, path: Path, number: int, *, literal: bool) -> dict[str, Any]:
    try:
        text = line.decode()
        value = ast.literal_eval(text.strip()) if literal else json.loads(text)
    except UnicodeDecodeError:
        raise InputError(f"{path}: row {number} is not UTF-8") from None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # TypeError: a list as a key
        form = "Python literal" if literal else "JSON object"
        raise InputError(f"{path}: row {number} is not a {form}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: row {number} is not an object but {type(value).__name__}")
    return value


def _item_2014(value: dict[str, Any]) -> dict[str, Any]:
    paths = value.get("categories")
    paths = paths if isinstance(paths, list) else [paths]
    return {
        "title": _text(value.get("title")),
        "brand": _text(value.get("brand")),
        "categories": _texts([name for path in paths for name in (path if isinstance(path, list) else [path])]),
        "description": _text(value.get("description")),
        "price": _price(value.get("price")),
    }


def _item_2018(value: dict[str, Any]) -> dict[str, Any]:
    title = _text(value.get("title"))
    return {
        "title": "" if _SCRIPT in title else title,
        "brand": _text(value.get("brand")),
        "categories": _texts(value.get("category")),
        "description": " ".join(_texts(value.get("description"))),
        "features": _texts(value.get("feature")),
        "price": _price(value.get("price")),
    }


def _item_2023(value: dict[str, Any]) -> dict[str, Any]:
    details = value.get("details")
    brand = details.get("Brand") if isinstance(details, dict) else None
    return {
        "title": _text(value.get("title")),
        "brand": _text(brand) or _text(value.get("store")),
        "categories": _texts(value.get("categories")) or _texts(value.get("main_category")),
        "description": " ".join(_texts(value.get("description"))),
        "features": _texts(value.get("features")),
        "price": _price(value.get("price")),
    }


def _text(value: Any) -> str:
    """Text without HTML and runs of spaces, half a character as "?"; "" for anything that is no text."""
    if not isinstance(value, str):
        return ""
    whole = value.encode("utf-8", "replace").decode()  # JSON can spell one half of a surrogate pair, a file cannot
    return " ".join(_TAG.sub(" ", html.unescape(whole)).split())


def _texts(value: Any) -> list[str]:
    """The different texts of a list (or of one text), in order."""
    several = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(text for text in map(_text, several) if text))


def _price(value: Any) -> float | None:
    """A price in dollars; None for ranges, NaN, and whatever else is no single price."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    match = _PRICE.match(value.strip()) if isinstance(value, str) else None
    return float(match[1].replace(",", "")) if match else None
