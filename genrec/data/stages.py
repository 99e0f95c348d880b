"""The stages `catalog` and `split` of a run: the two tables, read, checked and split."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from genrec.data.config import DataConfig
from genrec.data.interactions import Interactions
from genrec.data.splits import by_time, from_given, leave_last_out
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.columns import Header, require_named
from genrec.semtok.folders import hash_file, to_json, write_atomic
from genrec.semtok.tables import column_names
from genrec.stages import Stage


def catalog_stage(data: DataConfig) -> Stage:
    """The item table as read; raises InputError where it or the log lacks a column."""
    check_columns(data)
    return Stage("catalog", _named(data, {"items": hash_file(Path(data.items))}), (), partial(_catalog, data))


def check_columns(data: DataConfig) -> None:
    """Look at the head of both tables; raises one InputError about all columns that they lack."""
    wanted = {
        Path(data.items): {name: data.columns.of_items[name] for name in ("item_id", "title")},
        Path(data.interactions): data.columns.of_log,
    }
    found = {path: column_names(path) for path in wanted}
    require_named(Header(path, has, wanted[path]) for path, has in found.items() if has is not None)


def _named(data: DataConfig, config: dict[str, Any]) -> dict[str, Any]:
    """With the names of columns, where there are any: runs of tables that need none stay up to date."""
    return config | ({"columns": data.columns.told()} if data.columns.told() else {})


def split_stage(data: DataConfig, seed: int, *, refit: bool = False) -> Stage:
    """Training histories and cases, the users with their whole histories, and what was found out about the log.

    Args:
        seed: draws cold items.
        refit: training histories go on with the validation cases, which are gone.
    """
    left_out = ("items", "interactions", "splits", "columns")
    config = _named(data, {name: value for name, value in asdict(data).items() if name not in left_out})
    config |= {"interactions": hash_file(Path(data.interactions)), "seed": seed}
    if data.splits is not None:
        config["splits"] = {part.name: hash_file(part) for part in sorted(Path(data.splits).glob("*.csv"))}
    if refit:
        config["refit"] = True
    return Stage("split", config, ("catalog",), partial(_split, data, seed, refit))


def _catalog(data: DataConfig, run: Run, folder: Path) -> None:
    Catalog.from_file(Path(data.items), data.columns).save(folder)


def _split(data: DataConfig, seed: int, refit: bool, run: Run, folder: Path) -> None:
    catalog = run.catalog()
    log = Interactions.from_file(Path(data.interactions), catalog, time_unit=data.time_unit, columns=data.columns)
    if data.split == "given":
        split = from_given(Path(data.splits or ""), catalog, log)
    elif data.split == "by_time":
        split = by_time(
            log, valid_share=data.valid_share, test_share=data.test_share, cold_share=data.cold_share, seed=seed
        )
    else:
        split = leave_last_out(log, cold_share=data.cold_share, seed=seed)
    (split.refit() if refit else split).save(folder)
    pairs = pl.DataFrame({"user": log.histories.owners, "item": log.histories.values})
    exclude_seen = not pairs.is_duplicated().any() if data.exclude_seen is None else data.exclude_seen
    names = pl.Series(catalog.item_ids, dtype=pl.String).gather(pairs["item"])
    histories = pairs.select("user", names.alias("history")).group_by("user", maintain_order=True).agg("history")
    users = pl.DataFrame({"user_id": pl.Series(log.user_ids, dtype=pl.String), "history": histories["history"]})
    users.write_parquet(folder / "users.parquet")
    write_atomic(folder / "data.json", to_json({"exclude_seen": bool(exclude_seen), "time_unit": log.time_unit}))
