"""MovieLens 100k, 1M and latest (GroupLens), from the unpacked archive's folder.

| version | ratings | movies |
|---|---|---|
| 100k | `u.data`, tabs | `u.item`, `|` between fields, Latin-1, one flag a genre |
| 1m | `ratings.dat`, `::` between fields | `movies.dat`, the same, Latin-1 |
| latest | `ratings.csv` | `movies.csv`, UTF-8 (also of latest-small, 20M, 25M, 32M) |

Harper & Konstan, "The MovieLens datasets: history and context" (2015).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import polars as pl

from genrec.data.importers.writing import Imported, check_out, write_tables
from genrec.semtok.errors import InputError
from genrec.semtok.tables import id_column, read_table, refuse_rows, require_columns

Version = Literal["100k", "1m", "latest"]
# The order of the flags in u.item, as in the archive's u.genre.
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_NO_GENRE = ("unknown", "(no genres listed)")


def import_movielens(folder: Path, out: Path, *, version: Version, k_core: int = 0) -> Imported:
    """Write `items.jsonl` (title, year, categories = genres) and `interactions.csv` (with ratings, all kept).

    Args:
        folder: the unpacked archive.
        out: a new folder, or one that an earlier import wrote.
        version: of the data set.
        k_core: users and movies keep at least so many ratings; 0 keeps all, and movies that nobody rated.

    Raises:
        InputError: a file is missing, broken or of another version; names file and row.
    """
    check_out(out)
    items, ratings = {"100k": _read_100k, "1m": _read_1m, "latest": _read_latest}[version](folder)
    return write_tables(ratings, items, out, k=k_core, source={"format": f"movielens-{version}"})


_Read = tuple[dict[str, dict[str, Any]], pl.DataFrame]


def _read_100k(folder: Path) -> _Read:
    movies = {}
    for row in _movies(folder / "u.item", "|", 5 + len(_GENRES_100K)).iter_rows():
        genres = [genre for genre, flag in zip(_GENRES_100K, row[5:], strict=True) if flag == "1"]
        movies[row[0]] = _movie(row[1], genres)
    return movies, _ratings(folder / "u.data", _fields(folder / "u.data", "\t", 4))


def _read_1m(folder: Path) -> _Read:
    rows = _movies(folder / "movies.dat", "::", 3).iter_rows()
    movies = {movie: _movie(title, genres.split("|")) for movie, title, genres in rows}
    return movies, _ratings(folder / "ratings.dat", _fields(folder / "ratings.dat", "::", 4))


def _read_latest(folder: Path) -> _Read:
    path = folder / "movies.csv"
    table = read_table(path, what="movies")
    require_columns(table, path, ("movieId", "title", "genres"))
    id_column(table, path, "movieId")
    rows = table.select("movieId", "title", "genres").iter_rows()
    movies = {movie: _movie(title, genres.split("|")) for movie, title, genres in rows}
    path = folder / "ratings.csv"
    ratings = read_table(path, what="ratings")
    require_columns(ratings, path, ("userId", "movieId", "rating", "timestamp"))
    return movies, _ratings(path, ratings.select("userId", "movieId", "rating", "timestamp"))


def _movies(path: Path, separator: str, count: int) -> pl.DataFrame:
    """The fields of a movie file, each row with an id in the first."""
    table = _fields(path, separator, count)
    refuse_rows(table["0"] == "", path, "without a movie id")
    return table


def _fields(path: Path, separator: str, count: int) -> pl.DataFrame:
    """The fields of a Latin-1 file without a header, as text in columns 0, 1, …; raises InputError where the file is
    missing or empty, or a row has another number of fields.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    lines = pl.Series(path.read_text(encoding="latin-1").rstrip("\n").split("\n")).str.strip_suffix("\r")
    if lines.len() == 1 and lines[0] == "":
        raise InputError(f"{path}: the file is empty")
    found = lines.str.count_matches(separator, literal=True) + 1
    refuse_rows(found != count, path, f"with other than {count} fields")
    return pl.DataFrame(
        {str(i): part for i, part in enumerate(lines.str.split_exact(separator, count - 1).struct.unnest())}
    )


def _ratings(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    """User, movie, rating, timestamp in four columns of text, checked, as events."""
    table.columns = ["user_id", "item_id", "rating", "timestamp"]
    for name in ("user_id", "item_id"):
        id_column(table, path, name)
    times = table["timestamp"].cast(pl.Int64, strict=False)
    refuse_rows(times.is_null(), path, "with a timestamp that is not a whole number", values=table["timestamp"])
    ratings = table["rating"].cast(pl.Float64, strict=False)
    refuse_rows(ratings.is_null(), path, "with a rating that is not a number", values=table["rating"])
    return pl.DataFrame([table["user_id"], table["item_id"], times, ratings])


def _movie(title: str, genres: list[str]) -> dict[str, Any]:
    year = _YEAR.search(title)
    return {
        "title": title,
        "year": int(year[1]) if year else None,
        "categories": [genre for genre in genres if genre not in _NO_GENRE],
    }
