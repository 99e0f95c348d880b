"""Opens the top-K store at a place: a folder (LMDB: no server, memory-mapped, shared by processes) or a Redis URL."""

from __future__ import annotations

from pathlib import Path

from genrec.inference.store.topk_store import TopKStore
from genrec.semtok.errors import InputError


def open_store(place: str | Path, *, verify: bool = False) -> TopKStore:
    """Open the store at a folder (made where it is missing) or a Redis URL.

    Args:
        verify: also hash the files of a folder's current version, and roll back where they are damaged.

    Raises:
        InputError: it cannot be opened, or is the address of something that is no store.
    """
    if str(place).startswith(("redis://", "rediss://", "unix://")):
        from genrec.inference.store.redis_store import RedisStore

        return RedisStore(str(place))
    if "://" in str(place):
        raise InputError(f"{place}: a store is a folder, or redis://, rediss:// or unix://")
    from genrec.inference.store.lmdb_store import LmdbStore

    store = LmdbStore(Path(place))
    if verify:
        store.verify()
    return store
