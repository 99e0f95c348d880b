"""The embedded top-K store: sealed LMDB files, one folder a version, and one small writable LMDB beside them.

    STORE/v000007/   data.mdb items.parquet info.json manifest.json   never written again; any process may map it
    STORE/state/     data.mdb lock.mdb: which version is current, which was before it, and the events since
    STORE/load.lock  held while a load, a rollback or a check runs

The pointer and the events are in one LMDB, so a look-up reads both in one snapshot, and a switch is one transaction:
a kill at any moment leaves the old version current or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import shutil
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import orjson
import polars as pl

from genrec.inference.store.packed_lists import ListDecoder, PackedBatch, PackedLists, read_batch, user_key
from genrec.inference.store.topk_store import LONGEST_HISTORY, ListsInfo, StoredList, StoreFull, StoreUnavailable
from genrec.semtok.errors import InputError
from genrec.semtok.folders import (
    MANIFEST,
    check_folder,
    hash_file,
    hold_lock,
    new_folder,
    to_json,
    write_atomic,
)
from genrec.semtok.schema import read_as
from genrec.semtok.tables import read_table, require_types

log = logging.getLogger(__name__)
_CURRENT, _PREVIOUS = b"current", b"previous"
_FOREIGN = ("config.yaml", MANIFEST)  # of a run and of its sealed folders: a store written into one would spoil it
_VERSION, _VERSION_KEY = re.compile("v[0-9]{1,18}"), re.compile(b"v[0-9]{1,18}")
_MADE = re.compile(r"\.?v[0-9]{1,18}(\.new|\.old)?")  # versions, and what a killed load left
_GARBAGE = (ValueError, struct.error, lmdb.Error)  # what values of another writer raise
_LATEST = struct.Struct("<d")  # opens a user's events: the time of the latest, so that staleness needs no parsing


class LmdbStore:
    """A `TopKStore` in a folder.

    A process may open a folder once (LMDB's locks are the process's); threads share the object.

    Args:
        folder: made where it is missing.
        events_bytes: room for events between two loads.

    Raises:
        InputError: it cannot be made or opened, or the folder holds something else of genrec's.
    """

    remote = False

    def __init__(self, folder: Path, *, events_bytes: int = 1 << 30) -> None:
        self.folder = folder
        if not (folder / "state").exists() and any((folder / name).exists() for name in _FOREIGN):
            raise InputError(f"{folder}: a run or a part of one, not a store; give a folder of its own")
        try:
            (folder / "state").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: no store can be made here ({error.strerror})") from None
        try:
            _refuse_truncated(folder / "state" / "data.mdb", _WITHOUT_STATE)
            self._state = lmdb.open(str(folder / "state"), map_size=events_bytes, max_dbs=2, max_readers=1024)
            self._state.reader_check()  # frees the slots of processes that were killed
            self._pointers = self._state.open_db(b"pointers")
            self._events = self._state.open_db(b"events")
        except lmdb.Error as error:
            raise InputError(f"{folder / 'state'}: cannot be opened ({error}); {_WITHOUT_STATE}") from None
        self._switching = threading.Lock()
        self._open: dict[bytes, _Lists] = {}
        self._pointer: bytes | None = None  # the pointer that `_lists` was chosen for
        self._lists: _Lists | None = None
        with self._state.begin(self._pointers) as txn:
            current = txn.get(_CURRENT)
        self._follow(current)

    def get(self, user_id: str) -> StoredList | None:
        key = user_key(user_id)
        if not key:
            return None  # LMDB knows no empty key
        with self._state.begin(self._events) as txn:
            events = txn.get(key)
            current = txn.get(_CURRENT, None, self._pointers)
        lists = self._lists if current == self._pointer else self._follow(current)
        return None if lists is None else lists.get(key, events)

    def get_many(self, user_ids: Sequence[str]) -> list[StoredList | None]:
        keys = [user_key(user_id) for user_id in user_ids]
        lists, events = self._look(keys)
        if lists is None:
            return [None] * len(keys)
        return [lists.get(key, event) if key else None for key, event in zip(keys, events, strict=True)]

    def history(self, user_id: str) -> tuple[str, ...]:
        key = user_key(user_id)
        lists, (events,) = self._look([key])
        loaded = () if lists is None or not key else lists.history(key)
        later = [] if events is None else self._unpacked(events)
        as_of = float("-inf") if lists is None else lists.info.as_of
        return (*loaded, *(item for at, item in later if at > as_of))[-LONGEST_HISTORY:]

    def add_events(self, user_id: str, item_ids: Sequence[str], at: float | None = None) -> None:
        key = user_key(user_id)
        if not key:
            raise InputError("an empty user id has no events")
        if not item_ids:
            return
        now = time.time() if at is None else at
        try:
            with self._state.begin(self._events, write=True) as txn:
                old = txn.get(key)
                events = [] if old is None else self._unpacked(old)
                events = sorted([*events, *((now, item) for item in item_ids)], key=lambda event: event[0])
                txn.put(key, _pack_events(events[-LONGEST_HISTORY:]))
        except lmdb.MapFullError:
            raise StoreFull(f"{self.folder / 'state'}: no room for more events before the next load") from None
        except lmdb.Error as error:
            raise StoreUnavailable(f"{self.folder / 'state'}: {error}") from error

    def info(self) -> ListsInfo | None:
        lists, _ = self._look([])
        return None if lists is None else lists.info

    def load(self, batch: Path, *, as_of: float | None = None, histories: pl.DataFrame | None = None) -> ListsInfo:
        with self._alone(), self._writing():
            packed = read_batch(batch, as_of=as_of, histories=histories)
            info = packed.info(self._next_version())
            with new_folder(self.folder / info.version, dataclasses.asdict(info)) as scratch:
                _write(scratch, packed, info)
            self._switch(info)
            self._sweep()
        return info

    def rollback(self) -> ListsInfo:
        with self._alone(), self._writing():
            with self._state.begin(self._pointers) as txn:
                current, previous = txn.get(_CURRENT), txn.get(_PREVIOUS)
            if previous is None:
                raise InputError(f"{self.folder}: there is no version to go back to")
            check_folder(self.folder / previous.decode(), hashes=True)
            with self._state.begin(self._pointers, write=True) as txn:
                txn.put(_CURRENT, previous)
                txn.put(_PREVIOUS, current or previous)
            info = self.info()
            assert info is not None
            return info

    def verify(self) -> None:
        """Hash the current version's files; where they are damaged, log it and go back to the version before."""
        info = self.info()
        if info is None:
            return
        try:
            check_folder(self.folder / info.version, hashes=True)
        except InputError as error:
            log.error("%s; going back to the version before", error)
            self.rollback()

    def close(self) -> None:
        """Close every file; the object is of no use after."""
        for lists in self._open.values():
            lists.env.close()
        self._state.close()

    def _look(self, keys: Sequence[bytes]) -> tuple[_Lists | None, list[bytes | None]]:
        """The version being served and these users' events, in one snapshot."""
        with self._state.begin(self._events) as txn:
            events = [txn.get(key) if key else None for key in keys]
            current = txn.get(_CURRENT, None, self._pointers)
        return (self._lists if current == self._pointer else self._follow(current)), events

    def _follow(self, pointer: bytes | None) -> _Lists | None:
        """Serve the version that the pointer names; where it is damaged, the best of the others, and say so."""
        with self._switching:
            if pointer == self._pointer and self._lists is not None:
                return self._lists
            with self._state.begin(self._pointers) as txn:
                previous = txn.get(_PREVIOUS)
            others = [name.encode() for name in reversed(self._versions())]
            kept = self._lists.name if self._lists is not None else None
            named = [name for name in (pointer, kept, previous) if name is not None and _VERSION_KEY.fullmatch(name)]
            candidates = list(dict.fromkeys([*named, *others]))
            chosen = None
            for name in candidates:
                try:
                    chosen = self._open.get(name) or _Lists(self.folder / name.decode())
                    break
                except (InputError, lmdb.Error) as error:
                    log.error("version refused: %s", error)
            # The one before stays open, for LMDB opens a file once a process and a rollback would want it again.
            self._open = {lists.name: lists for lists in (self._lists, chosen) if lists is not None}
            self._lists, self._pointer = chosen, pointer
            return chosen

    def _unpacked(self, events: bytes) -> list[tuple[float, str]]:
        """A user's events as (time, item), by time; raises StoreUnavailable where others wrote there."""
        try:
            pairs = [(float(at), item) for at, item in orjson.loads(events[_LATEST.size :])]
            if not all(isinstance(item, str) for _, item in pairs):
                raise ValueError("an item that is no text")
        except (ValueError, TypeError) as error:
            raise StoreUnavailable(f"{self.folder / 'state'}: events that are none ({error})") from error
        return pairs

    def _versions(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir())

    def _next_version(self) -> str:
        return f"v{max([int(name[1:]) for name in self._versions()], default=0) + 1:06d}"

    def _switch(self, info: ListsInfo) -> None:
        """Point at a sealed version, and drop the events that both it and the one served before it hold."""
        before = self.info()
        with self._state.begin(self._pointers, write=True) as txn:
            txn.put(_CURRENT, info.version.encode())
            if before is not None:
                txn.put(_PREVIOUS, before.version.encode())
        self._forget_events(min(lists.as_of for lists in (info, before) if lists is not None))

    def _forget_events(self, as_of: float) -> None:
        with self._state.begin(self._events, write=True) as txn:
            short = _LATEST.size  # what is shorter than a time is none of ours
            old = [key for key, value in txn.cursor() if len(value) < short or _LATEST.unpack_from(value)[0] <= as_of]
            for key in old:
                txn.delete(key)

    def _sweep(self) -> None:
        """Remove what is neither current nor the version before; a reader that still maps one keeps its pages."""
        with self._state.begin(self._pointers) as txn:
            kept = {name.decode() for name in (txn.get(_CURRENT), txn.get(_PREVIOUS)) if name is not None}
        for path in list(self.folder.iterdir()):
            if _MADE.fullmatch(path.name) and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full or read-only disk is one line; the version that is served goes on."""
        try:
            yield
        except (OSError, lmdb.Error, pl.exceptions.PolarsError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise InputError(f"{self.folder}: cannot be written ({reason}); the version before serves on") from error

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return hold_lock(self.folder / "load.lock", f"{self.folder}: another load or rollback is running")


class _Lists:
    """One sealed version, mapped."""

    def __init__(self, folder: Path) -> None:
        files = check_folder(folder)["files"]
        # These two are small and read whole, so every opening hashes them; the pages of data.mdb only `verify` does.
        for path in (folder / "info.json", folder / "items.parquet"):
            if path.name not in files or hash_file(path) != files[path.name]["sha256"]:
                raise InputError(f"{path}: contents differ from the manifest's hash")
        self.name = folder.name.encode()
        self.info = read_as(folder / "info.json", ListsInfo)
        table = read_table(folder / "items.parquet", what="items", may_be_empty=True)
        require_types(table, folder / "items.parquet", {"item_id": pl.String})
        if (self.info.version, self.info.items) != (folder.name, len(table)):
            raise InputError(f"{folder}: info.json is of another version than {folder.name} of {len(table)} items")
        self._decoder = ListDecoder(tuple(table["item_id"].to_list()))
        _refuse_truncated(folder / "data.mdb", "it was changed behind its manifest")
        # Without a lock file: nothing writes here, so readers need no table and may share a read-only disk.
        self.env = lmdb.open(str(folder), readonly=True, lock=False, max_dbs=2, readahead=False)
        self._users = self.env.open_db(b"lists", create=False)
        self._histories = self.env.open_db(b"histories", create=False)
        self._of_thread = _Snapshot(self.env)

    def get(self, key: bytes, events: bytes | None) -> StoredList | None:
        try:
            value = self._of_thread.txn.get(key, None, self._users)
            if value is None:
                return None
            item_ids, scores = self._decoder.lists(value)
            stale = events is not None and _LATEST.unpack_from(events)[0] > self.info.as_of
        except _GARBAGE as error:
            raise StoreUnavailable(f"{self.info.version}: a list that is none ({error})") from error
        return StoredList(item_ids, scores, self.info, stale)

    def history(self, key: bytes) -> tuple[str, ...]:
        try:
            value = self._of_thread.txn.get(key, None, self._histories)
            return () if value is None else self._decoder.history(value)
        except _GARBAGE as error:
            raise StoreUnavailable(f"{self.info.version}: a history that is none ({error})") from error


class _Snapshot(threading.local):
    """A read transaction for each thread. It stays open: nobody writes to a sealed file, so it holds nothing back."""

    def __init__(self, env: lmdb.Environment) -> None:
        self.txn = env.begin()


_WITHOUT_STATE = (
    "stop the service and move that folder away: the newest whole version then serves, without posted events"
)


def _pack_events(events: list[Any]) -> bytes:
    return _LATEST.pack(max(event[0] for event in events)) + orjson.dumps(events)


def _refuse_truncated(path: Path, cure: str) -> None:
    """LMDB maps whatever is there, and a page beyond the end of the file kills the process: look first."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with lmdb.open(str(path.parent), readonly=True, lock=False, create=False) as env:
        wanted = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if path.stat().st_size < wanted:
        raise InputError(f"{path}: {path.stat().st_size} bytes where its pages take {wanted}; truncated; {cure}")


def _write(folder: Path, packed: PackedBatch, info: ListsInfo) -> None:
    parts: dict[bytes, PackedLists | None] = {b"lists": packed.lists, b"histories": packed.histories}
    room = sum(600 * len(part) + 2 * part.records.nbytes for part in parts.values() if part is not None)
    env = lmdb.open(str(folder), map_size=room + (64 << 20), max_dbs=2, lock=False, sync=False, meminit=False)
    for name, part in parts.items():
        table = env.open_db(name)
        if part is not None:
            with env.begin(table, write=True) as txn, txn.cursor() as cursor:
                # Ascending keys fill every page; LMDB would leave them half empty otherwise.
                cursor.putmulti(part.items(), append=True, overwrite=False)
    env.sync(True)
    env.close()
    pl.DataFrame({"item_id": packed.item_ids}, schema={"item_id": pl.String}).write_parquet(folder / "items.parquet")
    write_atomic(folder / "info.json", to_json(dataclasses.asdict(info)))
