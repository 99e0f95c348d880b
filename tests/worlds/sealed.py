"""Stage folders of a run, written by hand and sealed as a stage seals its own."""

from __future__ import annotations

from pathlib import Path

from genrec.semtok.catalog import Catalog
from genrec.semtok.folders import new_folder, to_json, write_atomic


def seal_catalog(run: Path, catalog: Catalog) -> None:
    """The folder `catalog`."""
    with new_folder(run / "catalog", {"stage": "catalog"}) as folder:
        catalog.save(folder)


def seal_data(run: Path, *, exclude_seen: bool) -> None:
    """The folder `split`, with what was found out about the log alone."""
    with new_folder(run / "split", {"stage": "split"}) as folder:
        write_atomic(folder / "data.json", to_json({"exclude_seen": exclude_seen, "time_unit": "seconds"}))
