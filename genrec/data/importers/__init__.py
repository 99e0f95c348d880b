"""Raw public data sets, from local files, to the two tables that genrec reads: `items.jsonl` and `interactions.csv`.

genrec import amazon-2023 --reviews All_Beauty.jsonl.gz --metadata meta_All_Beauty.jsonl.gz --out data/beauty
genrec import movielens-1m --folder ml-1m --out data/ml-1m
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from genrec.data.importers.amazon import import_amazon
from genrec.data.importers.movielens import import_movielens
from genrec.data.importers.writing import Imported
from genrec.semtok import options as check
from genrec.semtok.errors import InputError, OptionError

Format = Literal["amazon-2014", "amazon-2018", "amazon-2023", "movielens-100k", "movielens-1m", "movielens-latest"]

__all__ = ["Format", "ImportConfig", "Imported", "import_amazon", "import_movielens", "run_import"]


@dataclass(frozen=True)
class ImportConfig:
    """What `genrec import` is asked to do.

    Attributes:
        format: the raw format.
        out: the folder to write; made anew, whole or not at all.
        reviews: Amazon: the review file.
        metadata: Amazon: the metadata file.
        folder: MovieLens: the unpacked archive.
        k_core: every user and every item keeps at least so many events, 0 keeps all; None takes the data set's custom,
            5 for Amazon and 0 for MovieLens.
    """

    format: Format
    out: Path
    reviews: Path | None = None
    metadata: Path | None = None
    folder: Path | None = None
    k_core: int | None = None

    def __post_init__(self) -> None:
        check.path(self, "out", "reviews", "metadata", "folder")
        if self.format not in get_args(Format):
            raise InputError(f"FORMAT {self.format}: must be one of {', '.join(get_args(Format))}")
        needed = ("reviews", "metadata") if self.format.startswith("amazon") else ("folder",)
        for flag in ("reviews", "metadata", "folder"):
            if (getattr(self, flag) is not None) != (flag in needed):
                raise InputError(
                    f"{self.format} needs {' and '.join(f'--{name}' for name in needed)}, and no other input"
                )
        if self.k_core is not None and self.k_core < 0:
            raise OptionError("k_core", f"{self.k_core} must not be negative")


def run_import(config: ImportConfig) -> Imported:
    """Convert what the configuration names; raises InputError where a raw file is missing or broken."""
    return _FORMATS[config.format](config)


def _amazon(year: Literal[2014, 2018, 2023]) -> Callable[[ImportConfig], Imported]:
    def run(config: ImportConfig) -> Imported:
        assert config.reviews is not None
        assert config.metadata is not None
        k_core = 5 if config.k_core is None else config.k_core
        return import_amazon(config.reviews, config.metadata, config.out, year=year, k_core=k_core)

    return run


def _movielens(version: Literal["100k", "1m", "latest"]) -> Callable[[ImportConfig], Imported]:
    def run(config: ImportConfig) -> Imported:
        assert config.folder is not None
        return import_movielens(config.folder, config.out, version=version, k_core=config.k_core or 0)

    return run


_FORMATS: dict[str, Callable[[ImportConfig], Imported]] = {
    "amazon-2014": _amazon(2014),
    "amazon-2018": _amazon(2018),
    "amazon-2023": _amazon(2023),
    "movielens-100k": _movielens("100k"),
    "movielens-1m": _movielens("1m"),
    "movielens-latest": _movielens("latest"),
}
