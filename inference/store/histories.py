"""The histories behind a batch's lists, as a store takes them along to answer live from."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec.inference.batch.job import JOB
from genrec.inference.batch.users import FileUsers, Users
from genrec.inference.store.topk_store import LONGEST_HISTORY
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.folders import hash_file, read_json


def histories_of(users: Users, catalog: Catalog) -> pl.DataFrame:
    """The users' latest items: `user_id`, `item_ids`."""
    names = pl.Series(catalog.item_ids, dtype=pl.String)
    user_ids, rows = [], []
    for user_id, history in users:
        user_ids.append(user_id)
        rows.append(history[-LONGEST_HISTORY:])
    lists = pl.Series(rows, dtype=pl.List(pl.Int32)).cast(pl.List(pl.Int32))  # of equal lengths polars makes an array
    return pl.DataFrame({"user_id": pl.Series(user_ids, dtype=pl.String), "row": lists}).select(
        "user_id", pl.col("row").list.eval(pl.lit(names).gather(pl.element())).alias("item_ids")
    )


def histories_behind(batch: Path, run: Path) -> pl.DataFrame | None:
    """Those of the run's own users, where the batch says that it was made from them; else None."""
    job = batch / JOB
    opened = Run(run)
    users = opened.users
    if not (job.is_file() and users.is_file()) or read_json(job).get("users_digest") != hash_file(users):
        return None
    catalog = opened.catalog()
    return histories_of(FileUsers(users, catalog), catalog)
