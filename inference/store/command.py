"""`genrec store`: load a batch of lists into a top-K store, go back to the version before, or show what is served.

    genrec store load STORE RUN/topk --users users.jsonl --as_of 1767222000
    genrec store rollback STORE
    genrec store info STORE

STORE is a folder (LMDB) or `redis://HOST:PORT/DB`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from genrec.data.interactions import Interactions
from genrec.inference.batch.users import FileUsers, LogUsers
from genrec.inference.store.histories import histories_behind, histories_of
from genrec.inference.store.opening import open_store
from genrec.inference.store.topk_store import ListsInfo, StoreFull, StoreUnavailable, TopKStore
from genrec.run import Run
from genrec.semtok import options as check
from genrec.semtok.errors import InputError


@dataclass(frozen=True)
class StoreConfig:
    """What `genrec store` is asked to do.

    Attributes:
        verb: load a batch and switch to it, roll back to the version before, or show what is served (info).
        store: a folder, or redis://HOST:PORT/DB.
        batch: folder of lists to load, such as RUN/topk.
        as_of: seconds since the epoch up to which events are in the lists; null: the time of the batch's first file.
        run: the run that made the lists; null: the folder that the batch is in.
        users: the users file behind the lists; null: the run's own users.
        interactions: a log of the users in its place.
    """

    verb: Literal["load", "rollback", "info"]
    store: str
    batch: Path | None = None
    as_of: float | None = None
    run: Path | None = None
    users: Path | None = None
    interactions: Path | None = None

    def __post_init__(self) -> None:
        check.path(self, "store", "batch", "run", "users", "interactions")
        if self.verb == "load" and self.batch is None:
            raise InputError(f"BATCH is missing: genrec store load {self.store} RUN/topk")
        if self.users is not None and self.interactions is not None:
            raise InputError("--users and --interactions exclude each other")
        of_load = {"BATCH": self.batch, "--as_of": self.as_of, "--run": self.run, "--users": self.users}
        for name, value in (of_load | {"--interactions": self.interactions}).items():
            if self.verb != "load" and value is not None:
                raise InputError(f"{name} goes with genrec store load, not with {self.verb}")


def run(config: StoreConfig) -> ListsInfo | None:
    """Do what is asked; the version that is served from now on, if any. Raises InputError where the batch or the store
    is broken, or the store does not answer.
    """
    if config.verb != "load" and "://" not in config.store and not Path(config.store).is_dir():
        raise InputError(f"{config.store}: no such folder")
    with contextlib.closing(open_store(config.store)) as store:
        try:
            if config.verb == "load":
                return _load(store, config)
            return store.rollback() if config.verb == "rollback" else store.info()
        except (StoreFull, StoreUnavailable) as error:
            raise InputError(str(error)) from error


def _load(store: TopKStore, config: StoreConfig) -> ListsInfo:
    assert config.batch is not None
    run = config.run or config.batch.parent
    return store.load(config.batch, as_of=config.as_of, histories=_histories(config.batch, run, config))


def _histories(batch: Path, run: Path, config: StoreConfig) -> pl.DataFrame | None:
    """What the users interacted with before the lists were made: by the flags, else of the run's own users."""
    if config.users is None and config.interactions is None:
        return histories_behind(batch, run)
    if not (run / "catalog").is_dir():
        raise InputError(f"{run}: not a run, and histories go by its catalogue; name the run with --run")
    catalog = Run(run).catalog()
    if config.interactions is not None:
        return histories_of(LogUsers(Interactions.from_file(config.interactions, catalog)), catalog)
    assert config.users is not None
    return histories_of(FileUsers(config.users, catalog), catalog)
