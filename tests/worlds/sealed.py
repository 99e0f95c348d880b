"""Stage folders of a run, written by hand and sealed as a stage seals its own."""

from __future__ import annotations

from pathlib import Path

from genrec.semtok.catalog import Catalog
from genrec.semtok.folders import new_folder


def seal_catalog(run: Path, catalog: Catalog) -> None:
    """The folder `catalog`."""
    with new_folder(run / "catalog", {"stage": "catalog"}) as folder:
        catalog.save(folder)
