"""Load, roll back or show a top-K store from the command line.

    python -m genrec.inference.store_tool load STORE RUN/topk --users users.jsonl --as-of 1767222000
    python -m genrec.inference.store_tool rollback STORE
    python -m genrec.inference.store_tool info STORE

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

from genrec.data.interactions import Interactions
from genrec.inference.batch.users import FileUsers, LogUsers
from genrec.inference.store.histories import histories_behind, histories_of
from genrec.inference.store.topk_store import ListsInfo, StoreFull, StoreUnavailable, open_store
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line in the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m genrec.inference.store_tool", description="Load, roll back or show a top-K store."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    load = verbs.add_parser("load", help="load a batch job's folder and switch to it")
    rollback = verbs.add_parser("rollback", help="go back to the version before")
    show = verbs.add_parser("info", help="what is being served")
    for verb in (load, rollback, show):
        verb.add_argument("store", help="a folder, or redis://HOST:PORT/DB")
    load.add_argument("batch", type=Path, help="RUN/topk")
    load.add_argument("--as-of", type=float, help="seconds since the epoch; events up to then are in the lists")
    load.add_argument("--run", type=Path, help="the run that made the lists (default: the folder that BATCH is in)")
    known = load.add_mutually_exclusive_group()
    known.add_argument("--users", type=Path, help="the users behind the lists (default: the run's own)")
    known.add_argument("--interactions", type=Path, help="a log of them in its place")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb != "load" and "://" not in chosen.store and not Path(chosen.store).is_dir():
            raise InputError(f"{chosen.store}: no such folder")
        with contextlib.closing(open_store(chosen.store)) as store:
            if chosen.verb == "load":
                histories = _histories(
                    chosen.batch, chosen.run or chosen.batch.parent, chosen.users, chosen.interactions
                )
                info: ListsInfo | None = store.load(chosen.batch, as_of=chosen.as_of, histories=histories)
            else:
                info = store.rollback() if chosen.verb == "rollback" else store.info()
    except (InputError, StoreFull, StoreUnavailable) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(to_json(None if info is None else dataclasses.asdict(info)))
    return 0


def _histories(batch: Path, run: Path, users: Path | None, log: Path | None) -> pl.DataFrame | None:
    if users is None and log is None:
        return histories_behind(batch, run)
    if not (run / "catalog").is_dir():
        raise InputError(f"{run}: no run, and histories go by its catalogue; name the run with --run")
    catalog = Catalog.load(run / "catalog")
    if users is not None:
        return histories_of(FileUsers(users, catalog), catalog)
    assert log is not None
    return histories_of(LogUsers(Interactions.from_file(log, catalog)), catalog)


if __name__ == "__main__":
    sys.exit(main())
