"""Stores as an enemy, a failing disk or a careless hand leaves them, and what a reader may make of each.

A store of two versions is changed in one place. A reader serves the current version, the one before, or nothing, and
says so; where the version's manifest is written anew behind the change (`sealed`), anything that is a list.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worlds.hostile import Mutation, Outcome, outcome_of, told_by
from worlds.topk_batches import write_batch

USERS = [f"user{n}" for n in range(40)]
_TIME = struct.pack("<d", 2e9)
_EVENTS = (
    b"", b"1", _TIME, _TIME + b"{", _TIME + b"1", _TIME + b"[[1]]", _TIME + b'[["a","b"]]', _TIME + b"[[1,2]]",
    _TIME + b'[[1,"\xff"]]', struct.pack("<d", math.nan) + b'[[1,"a"]]',
)  # fmt: skip
STATES: dict[str, tuple[str, bytes, bytes]] = {  # of the state: a table, a key, and what somebody else wrote there
    **{
        f"pointer {told!r}": ("pointers", b"current", told)
        for told in (b"", b"\xff", b"../x", b"v1/..", b"v9", b"v000001")
    },
    "pointer behind": ("pointers", b"previous", b"../../x"),
    **{f"events {told!r}": ("events", USERS[0].encode(), told) for told in _EVENTS},
}


def state_change(name: str) -> Callable[[Path], None]:
    """A change of what a store's state holds, through LMDB itself."""
    table, key, value = STATES[name]

    def change(path: Path) -> None:
        import lmdb

        with (
            lmdb.open(str(path.parent), max_dbs=2) as state,
            state.begin(state.open_db(table.encode()), write=True) as txn,
        ):
            txn.put(key, value)

    return change


def make_store(folder: Path, versions: Sequence[str]) -> Path:
    """A store with a version for each name, the last one current, with histories and an event."""
    import polars as pl

    from genrec.inference.store.lmdb_store import LmdbStore

    store = LmdbStore(folder, events_bytes=1 << 20)
    histories = pl.DataFrame({"user_id": USERS[:30], "item_ids": [["x", f"{user}-1"] for user in USERS[:30]]})
    for name in versions:
        lists = {user: [(f"{name}-{user}-{n}", -n - 0.5) for n in range(5)] for user in USERS[:35]}
        store.load(
            write_batch(folder.parent / f"{folder.name}-{name}", lists, run_id=name), as_of=1e9, histories=histories
        )
        store.add_events(USERS[-1], ["an event"], at=2e9)
    store.close()
    return folder


def mutate_store(store: Path, into: Path, mutation: Mutation) -> Path:
    """A copy of a store with one change."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(store, into)
    mutation.apply(into / mutation.file)
    if mutation.sealed:
        seal_version(into / mutation.file.split("/")[0])
    return into


def seal_version(folder: Path) -> None:
    """Write the manifest of a store's version anew."""
    from genrec.semtok.folders import MANIFEST, write_manifest

    for part in folder.rglob("*"):
        if part.is_symlink():
            part.unlink()
    inputs = json.loads((folder / MANIFEST).read_text())["inputs"]
    (folder / MANIFEST).unlink()
    write_manifest(folder, inputs)


def probe_store(folder: Path) -> Outcome:
    """Open a store as the server does and as `genrec store` does; lists, histories, events and a rollback."""

    def ask() -> Any:
        from genrec.inference.store.opening import open_store
        from genrec.inference.store.topk_store import StoreFull, StoreUnavailable
        from genrec.semtok.errors import InputError

        with contextlib.closing(open_store(folder, verify=True)) as store:
            try:
                told = store.info()
                lists = [found and (found.item_ids, found.scores) for found in store.get_many(USERS)]
                assert lists == [(one := store.get(user)) and (one.item_ids, one.scores) for user in USERS]
                histories = [store.history(user) for user in USERS[:30]]
                store.add_events(USERS[0], ["x"])
                with contextlib.suppress(InputError):
                    store.rollback()
                    store.get_many(USERS)
            except (StoreFull, StoreUnavailable) as error:
                raise InputError(str(error)) from None
        with contextlib.suppress(InputError):
            told_by("store", "info", str(folder))
        return None if told is None else (told.model_id, lists, histories)

    return outcome_of(ask)


def probe_load(batch: Path) -> Outcome:
    """Load a folder of lists into a store that serves others: what it then serves is a whole batch, or the others."""

    def ask() -> Any:
        from genrec.inference.store.opening import open_store
        from genrec.semtok.errors import InputError

        place = batch.parent / "store of a load"
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(place.with_name(f"{place.name}-others"), ignore_errors=True)
        make_store(place, ["others"])
        try:
            told_by("store", "load", str(place), str(batch))
        except InputError:
            with contextlib.closing(open_store(place)) as store:
                assert (info := store.info()) is not None
                assert info.model_id == "others"
            raise
        with contextlib.closing(open_store(place)) as store:
            return [found and (found.item_ids, found.scores) for found in store.get_many(USERS)]

    return outcome_of(ask)
