"""Load, roll back or show a top-K store from the command line.

    python -m inference.store_tool load STORE RUN/topk --as-of 1767222000 --interactions log.csv
    python -m inference.store_tool rollback STORE
    python -m inference.store_tool info STORE

STORE is a folder (LMDB) or `redis://HOST:PORT/DB`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec.interactions import Interactions
from inference.store import LONGEST_HISTORY, ListsInfo, open_store
from semtok.catalog import Catalog
from semtok.errors import InputError
from semtok.folders import to_json


def histories_of(log: Interactions, catalog: Catalog, *, longest: int = LONGEST_HISTORY) -> pl.DataFrame:
    """The users' latest items as `load` takes them: `user_id`, `item_ids`."""
    recent = log.histories.last(longest)
    items = pl.Series(catalog.item_ids).gather(recent.values)
    lengths = pl.Series(recent.lengths)
    users = pl.Series("user_id", log.user_ids, dtype=pl.String)
    flat = pl.DataFrame(
        {"user_id": users.gather(pl.Series(range(len(users))).repeat_by(lengths).explode()), "item_ids": items}
    )
    return flat.group_by("user_id", maintain_order=True).agg("item_ids")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line in the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.store_tool", description="Load, roll back or show a top-K store."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    load = verbs.add_parser("load", help="load a batch job's folder and switch to it")
    rollback = verbs.add_parser("rollback", help="go back to the version before")
    show = verbs.add_parser("info", help="what is being served")
    for verb in (load, rollback, show):
        verb.add_argument("store", help="a folder, or redis://HOST:PORT/DB")
    load.add_argument("batch", type=Path, help="RUN/topk")
    load.add_argument(
        "--as-of",
        type=float,
        help="events up to then are in the lists (seconds since the epoch; default: the batch's time)",
    )
    load.add_argument(
        "--interactions", type=Path, help="the log that the lists were made from: live answers then know it"
    )
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb == "info" and not chosen.store.startswith("redis") and not Path(chosen.store).is_dir():
            raise InputError(f"{chosen.store}: no such folder")
        store = open_store(chosen.store)
        if chosen.verb == "load":
            histories = None
            if chosen.interactions is not None:
                catalog = Catalog.load(chosen.batch.parent / "catalog")
                histories = histories_of(Interactions.from_file(chosen.interactions, catalog), catalog)
            info: ListsInfo | None = store.load(chosen.batch, as_of=chosen.as_of, histories=histories)
        elif chosen.verb == "rollback":
            info = store.rollback()
        else:
            info = store.info()
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(to_json(None if info is None else dataclasses.asdict(info)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
