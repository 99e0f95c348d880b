"""Load, roll back or show a top-K store from the command line.

    python -m inference.store_tool load STORE RUN/topk --interactions log.csv --as-of 1767222000
    python -m inference.store_tool rollback STORE
    python -m inference.store_tool info STORE

STORE is a folder (LMDB) or `redis://HOST:PORT/DB`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec.interactions import Interactions
from inference.store import LONGEST_HISTORY, ListsInfo, open_store
from inference.users import FileUsers, LogUsers, Users
from semtok.catalog import Catalog
from semtok.errors import InputError
from semtok.folders import to_json


def histories_of(users: Users, catalog: Catalog, *, longest: int = LONGEST_HISTORY) -> pl.DataFrame:
    """The users' latest items as `load` takes them: `user_id`, `item_ids`."""
    names = pl.Series(catalog.item_ids, dtype=pl.String)
    user_ids, rows = [], []
    for user_id, history in users:
        user_ids.append(user_id)
        rows.append(history[-longest:])
    return pl.DataFrame(
        {"user_id": pl.Series(user_ids, dtype=pl.String), "row": pl.Series(rows, dtype=pl.List(pl.Int32))}
    ).select("user_id", pl.col("row").list.eval(pl.lit(names).gather(pl.element())).alias("item_ids"))


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
    load.add_argument("--as-of", type=float, help="seconds since the epoch; events up to then are in the lists")
    known = load.add_mutually_exclusive_group()
    known.add_argument("--interactions", type=Path, help="the log behind the lists, so that live answers know it")
    known.add_argument("--users", type=Path, help="the file of users behind the lists, in its place")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb != "load" and "://" not in chosen.store and not Path(chosen.store).is_dir():
            raise InputError(f"{chosen.store}: no such folder")
        with contextlib.closing(open_store(chosen.store)) as store:
            if chosen.verb == "load":
                histories = _histories(chosen.batch.parent / "catalog", chosen.interactions, chosen.users)
                info: ListsInfo | None = store.load(chosen.batch, as_of=chosen.as_of, histories=histories)
            else:
                info = store.rollback() if chosen.verb == "rollback" else store.info()
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(to_json(None if info is None else dataclasses.asdict(info)))
    return 0


def _histories(catalog_folder: Path, log: Path | None, users: Path | None) -> pl.DataFrame | None:
    if log is None and users is None:
        return None
    catalog = Catalog.load(catalog_folder)
    if log is not None:
        return histories_of(LogUsers(Interactions.from_file(log, catalog)), catalog)
    assert users is not None
    return histories_of(FileUsers(users, catalog), catalog)


if __name__ == "__main__":
    sys.exit(main())
