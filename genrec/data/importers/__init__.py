"""Raw public data sets, from local files, to the two tables that genrec reads: `items.jsonl` and `interactions.csv`.

genrec import amazon-2023 --reviews All_Beauty.jsonl.gz --metadata meta_All_Beauty.jsonl.gz --out data/beauty
genrec import movielens-1m --folder ml-1m --out data/ml-1m
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from genrec.data.importers.amazon import Year, import_amazon
from genrec.data.importers.movielens import Version, import_movielens
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
    family, _, release = config.format.partition("-")
    if family == "movielens":
        assert config.folder is not None
        return import_movielens(config.folder, config.out, version=cast(Version, release), k_core=config.k_core or 0)
    assert config.reviews is not None
    assert config.metadata is not None
    year, k_core = cast(Year, int(release)), 5 if config.k_core is None else config.k_core
    return import_amazon(config.reviews, config.metadata, config.out, year=year, k_core=k_core)
