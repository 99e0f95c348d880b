"""The top-K store in Redis, for those who have one: the same packed values, one hash a version.

    genrec:current            JSON {"current": "v000007", "previous": "v000006", "token": ...}: one key, so that a
                              switch is one SET; the token is another after each
    genrec:count              the last version number given out
    genrec:loading            the loader's lock
    genrec:v000007:info       JSON of `ListsInfo`        genrec:v000007:items      JSON array, the item table
    genrec:v000007:lists      hash, user to packed list  genrec:v000007:histories  hash, user to packed history
    genrec:latest             sorted set, user to the time of the latest event
    genrec:events:USER        list of JSON [time, item]

A look-up is one round trip: the pointer, the list in the version seen last and the latest event; it is asked again
where the pointer has moved. One hash lives on one node, so a Redis Cluster holds a version on a single node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import redis

from genrec.inference.store.packed_lists import ListDecoder, read_batch, user_key
from genrec.inference.store.topk_store import LONGEST_HISTORY, ListsInfo, StoredList, StoreUnavailable
from genrec.semtok.errors import InputError

log = logging.getLogger(__name__)
_CHUNK = 1000  # users a write
_LOCK_SECONDS = 120  # a loader that died frees the lock after this; a living one renews it with every chunk

# KEYS: the sorted set, then a list for each user. ARGV: the time, then the users. Events that arrive meanwhile stay.
_FORGET = """
for i = 2, #ARGV do
  local latest = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if latest and tonumber(latest) <= tonumber(ARGV[1]) then
    redis.call('UNLINK', KEYS[i])
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
"""


class RedisStore:
    """A `TopKStore` in Redis.

    Args:
        url: redis://[:PASSWORD@]HOST:PORT/DB, rediss:// or unix://.
        prefix: opens every key, for several stores in one database.
        timeout: seconds that an answer may take.

    Raises:
        InputError: nothing answers there.
    """

    remote = True

    def __init__(self, url: str, *, prefix: str = "genrec", timeout: float = 2.0) -> None:
        self._prefix = prefix
        try:
            self._redis = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
            self._redis.ping()
        except (redis.RedisError, ValueError) as error:
            raise InputError(f"{url.rpartition('@')[2]}: cannot reach Redis ({error})") from None
        self._forget = self._redis.register_script(_FORGET)
        self._lists: _Lists | None = None
        self._refused: bytes | None = None  # a pointer to garbage, which is not tried again on every look-up

    def get(self, user_id: str) -> StoredList | None:
        return self.get_many([user_id])[0]

    def get_many(self, user_ids: Sequence[str]) -> list[StoredList | None]:
        if not user_ids:
            return []
        keys = [user_key(user_id) for user_id in user_ids]
        lists, values, latest = self._ask("lists", lambda pipe: pipe.zmscore(self._key("latest"), keys), keys)
        if lists is None:
            return [None] * len(keys)
        with _parsing("a list"):
            return [
                None if value is None else lists.stored(value, at) for value, at in zip(values, latest, strict=True)
            ]

    def history(self, user_id: str) -> tuple[str, ...]:
        key = user_key(user_id)
        lists, values, later = self._ask("histories", lambda pipe: pipe.lrange(self._events(key), 0, -1), [key])
        as_of = float("-inf") if lists is None else lists.info.as_of
        with _parsing(f"the history of user {user_id!r}"):
            loaded = () if lists is None or values[0] is None else lists.decoder.history(values[0])
            events = sorted(map(_event, later), key=lambda event: event[0])
        return (*loaded, *(item for at, item in events if at > as_of))[-LONGEST_HISTORY:]

    def add_events(self, user_id: str, item_ids: Sequence[str], at: float | None = None) -> None:
        key = user_key(user_id)
        if not key:
            raise InputError("an empty user id has no events")
        if not item_ids:
            return
        now = time.time() if at is None else at
        with _reaching(), self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(self._events(key), *(orjson.dumps([now, item]) for item in item_ids))
            pipe.ltrim(self._events(key), -LONGEST_HISTORY, -1)
            pipe.zadd(self._key("latest"), {key: now}, gt=True)
            pipe.execute()

    def info(self) -> ListsInfo | None:
        with _reaching(), self._redis.pipeline(transaction=False) as pipe:
            (current,) = pipe.get(self._key("current")).execute(raise_on_error=False)
            lists = self._follow(self._pointed(current))
        return None if lists is None else lists.info

    def load(self, batch: Path, *, as_of: float | None = None, histories: pl.DataFrame | None = None) -> ListsInfo:
        packed = read_batch(batch, as_of=as_of, histories=histories)
        with _reaching(), self._alone() as lock:
            try:
                pointer = self._pointer()
                self._sweep(pointer.values())
            except (StoreUnavailable, redis.ResponseError) as error:
                log.error("%s; it is replaced by this load", error)
                pointer = {}
            info = packed.info(f"v{self._redis.incr(self._key('count')):06d}")
            for name, part in (("lists", packed.lists), ("histories", packed.histories)):
                for chunk in _chunks(() if part is None else part.items()):
                    self._redis.hset(self._key(info.version, name), mapping=dict(chunk))
                    lock.reacquire()
            self._redis.set(self._key(info.version, "items"), orjson.dumps(packed.item_ids))
            self._redis.set(self._key(info.version, "info"), orjson.dumps(dataclasses.asdict(info)))
            kept = {"current": info.version}
            with contextlib.suppress(StoreUnavailable, KeyError):  # garbage is nothing to go back to
                kept["previous"] = self._info(pointer["current"]).version
            self._point(kept)
            self._sweep(kept.values())
            before = [self._info(kept["previous"])] if "previous" in kept else []
            self._forget_events(min(lists.as_of for lists in (info, *before)))
        return info

    def rollback(self) -> ListsInfo:
        with _reaching(), self._alone():
            pointer = self._pointer()
            if "previous" not in pointer:
                raise InputError(f"{self._prefix}: there is no version to go back to")
            info = self._info(pointer["previous"])
            swapped = {"current": pointer["previous"], "previous": pointer["current"]}
            self._point(swapped)
        return info

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _events(self, key: bytes) -> bytes:
        return self._key("events").encode() + b":" + key

    def _ask(self, part: str, events: Any, keys: list[bytes]) -> tuple[_Lists | None, list[bytes | None], Any]:
        """The current version, its values for `keys`, and the reply to what `events` adds to the same round trip."""
        with _reaching():
            while True:
                lists = self._lists
                with self._redis.pipeline(transaction=True) as pipe:
                    pipe.get(self._key("current"))
                    pipe.hmget(self._key("" if lists is None else lists.info.version, part), keys)
                    events(pipe)
                    current, values, reply = pipe.execute(raise_on_error=False)
                if self._follow(self._pointed(current)) is lists:
                    for answer in (values, reply):
                        if isinstance(answer, Exception):
                            raise answer
                    return lists, values, reply

    def _pointed(self, current: bytes | redis.ResponseError | None) -> bytes | None:
        """The pointer; where its key holds something else by now, the one that is followed already."""
        if isinstance(current, redis.ResponseError):
            if self._lists is None:
                raise current
            return self._lists.pointer
        return current

    def _follow(self, current: bytes | None) -> _Lists | None:
        """The version that the pointer names, its table read once."""
        if current is None:
            self._lists, self._refused = None, None
        elif self._lists is None or current not in (self._lists.pointer, self._refused):
            try:
                self._lists, self._refused = self._version(current), None
            except (StoreUnavailable, redis.ResponseError) as error:
                if self._lists is None:
                    raise
                self._refused = current
                log.error("version refused, %s goes on serving: %s", self._lists.info.version, error)
        return self._lists

    def _version(self, pointer: bytes) -> _Lists:
        """The version that a pointer names, whole; raises StoreUnavailable where it is gone or garbage."""
        with _parsing(self._key("current")):
            version = _text(orjson.loads(pointer)["current"])
        info = self._info(version)
        with _parsing(self._key(version, "items")):
            items = orjson.loads(self._stored(version, "items"))
            if not (isinstance(items, list) and len(items) == info.items and all(isinstance(i, str) for i in items)):
                raise ValueError(f"not the {info.items} items of the version")
        return _Lists(pointer, info, ListDecoder(tuple(items)))

    def _info(self, version: str) -> ListsInfo:
        with _parsing(self._key(version, "info")):
            info = ListsInfo(**orjson.loads(self._stored(version, "info")))
            if not (isinstance(info.as_of, float | int) and isinstance(info.items, int) and info.version == version):
                raise ValueError("not the facts of the version")
            return info

    def _stored(self, *parts: str) -> bytes:
        value: bytes | None = self._redis.get(self._key(*parts))
        if value is None:
            raise StoreUnavailable(f"{self._key(*parts)} is gone from Redis")
        return value

    def _pointer(self) -> dict[str, str]:
        current = self._redis.get(self._key("current"))
        if current is None:
            return {}
        with _parsing(self._key("current")):
            stored = orjson.loads(current)
            named = ("current", "previous") if "previous" in stored else ("current",)
            return {name: _text(stored[name]) for name in named}

    def _point(self, kept: Mapping[str, str]) -> None:
        # A database that was emptied counts from v000001 again. By the token a reader that holds the table of an older
        # version of that name sees that it is another.
        self._redis.set(self._key("current"), orjson.dumps({**kept, "token": uuid.uuid4().hex}))

    def _sweep(self, kept: Iterable[str]) -> None:
        """Remove versions that are neither current nor the one before, and what killed loads left."""
        versions = set(kept)
        for key in self._redis.scan_iter(match=self._key("v[0-9]*"), count=_CHUNK):
            if key.decode().removeprefix(self._prefix + ":").partition(":")[0] not in versions:
                self._redis.unlink(key)

    def _forget_events(self, as_of: float) -> None:
        for users in _chunks(self._redis.zrange(self._key("latest"), "-inf", as_of, byscore=True)):
            self._forget(keys=[self._key("latest"), *map(self._events, users)], args=[repr(as_of), *users])

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Any]:
        lock = self._redis.lock(self._key("loading"), timeout=_LOCK_SECONDS)
        if not lock.acquire(blocking=False):
            raise InputError(f"{self._prefix}: another load or rollback is running")
        try:
            yield lock
        finally:
            with contextlib.suppress(redis.exceptions.LockError):  # it ran out, and may be another's by now
                lock.release()


@dataclasses.dataclass(frozen=True)
class _Lists:
    """One version, as the pointer `pointer` named it."""

    pointer: bytes
    info: ListsInfo
    decoder: ListDecoder

    def stored(self, value: bytes, latest: float | None) -> StoredList:
        item_ids, scores = self.decoder.lists(value)
        if not all(map(math.isfinite, scores)):
            raise ValueError("a score is not a number")
        return StoredList(item_ids, scores, self.info, latest is not None and latest > self.info.as_of)


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    source = iter(rows)
    while chunk := list(itertools.islice(source, _CHUNK)):
        yield chunk


def _event(line: bytes) -> tuple[float, str]:
    at, item = orjson.loads(line)
    return float(at), _text(item)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r:.40}")
    return value


@contextlib.contextmanager
def _parsing(what: str) -> Iterator[None]:
    """What others wrote there is unavailable, not a failure of the server."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreUnavailable(f"{what}: garbage in Redis ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis: {error}") from error
