"""Which list a user gets: the stored one, or a live one where it is stale, missing or filtered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import compress
from typing import Any, TypeVar

from genrec.inference.serve.microbatch import LiveList, MicroBatcher, Overloaded, Question
from genrec.inference.serve.problem import Problem
from genrec.inference.store.topk_store import StoredList, TopKStore
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError

Answer = dict[str, Any]
Result = TypeVar("Result")


class Answers:
    """Answers as JSON-able dictionaries.

    Args:
        catalog: of the run; its withdrawn items are taken out of stored lists.
        store: None where there are no lists.
        batcher: None where nothing is answered live.
        timeout: seconds that a live answer may take.
    """

    def __init__(
        self, catalog: Catalog, store: TopKStore | None, batcher: MicroBatcher | None, *, timeout: float
    ) -> None:
        self._catalog, self._store, self._batcher, self._timeout = catalog, store, batcher, timeout
        self._withdrawn = frozenset(compress(catalog.item_ids, catalog.withdrawn))
        self._for_anonymous: dict[int, LiveList] = {}  # by K: every user without a history gets the same list

    async def for_user(self, user_id: str, k: int) -> Answer:
        """The stored list where it is fresh, else a live one, else the stale one; raises Problem 404 where there is
        none and nothing is answered live, 503 or 504 where live is too busy.
        """
        stored = None if self._store is None else await _read(self._store, self._store.get, user_id)
        if stored is not None and (not stored.stale or self._batcher is None):
            return self._from_store(user_id, stored, k)
        if self._batcher is None:
            raise Problem(404, "unknown-user", f"no list for user {user_id!r}, and live recommendations are off")
        history, unknown = self.split(await self.history(user_id))
        try:
            question = Question(history, k, exclude_seen=self._batcher.recommender.filter_viewed)
            return await self.live(question, user_id=user_id, unknown=unknown)
        except Problem:
            if stored is None:
                raise
            return self._from_store(user_id, stored, k)

    async def live(self, question: Question, *, user_id: str | None, unknown: Sequence[str]) -> Answer:
        """A list from the model; raises Problem 503 where live is off, and as `in_time`."""
        if self._batcher is None:
            raise Problem(503, "live-off", "live recommendations are off")
        anonymous = question == Question((), question.k, exclude_seen=question.exclude_seen)
        found = self._for_anonymous.get(question.k) if anonymous else None
        if found is None:
            found = await self.in_time(self._batcher.ask(question))
        if anonymous:
            self._for_anonymous[question.k] = found
        model = self._batcher.recommender
        return {
            "user_id": user_id,
            "items": scored(found.items),
            "source": "live",
            "stale": False,
            "version": None,
            "age_seconds": 0.0,
            "model_id": model.run_id,
            "index_version": model.index_version,
            "history_length": len(question.history),
            "unknown_items": unknown,
            "reason": found.reason,
        }

    async def in_time(self, answer: Awaitable[Result]) -> Result:
        """What the model says; raises Problem 422 for a senseless filter, 503 for a full queue, 504 out of time."""
        try:
            return await asyncio.wait_for(answer, self._timeout)
        except Overloaded as error:
            raise Problem(503, "overloaded", str(error), headers={"Retry-After": "1"}) from None
        except TimeoutError:
            raise Problem(504, "timeout", f"no answer within {self._timeout:g} s") from None
        except InputError as error:
            raise Problem(422, "invalid", str(error)) from None

    async def history(self, user_id: str) -> tuple[str, ...]:
        """The items that the store knows the user interacted with, oldest first."""
        return () if self._store is None else await _read(self._store, self._store.history, user_id)

    def split(self, item_ids: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
        """The items that the catalogue knows, and the others, both in order."""
        known = tuple(item for item in item_ids if self._catalog.find_row(item) is not None)
        return known, [item for item in item_ids if self._catalog.find_row(item) is None]

    def _from_store(self, user_id: str, stored: StoredList, k: int) -> Answer:
        info = stored.info
        listed = zip(stored.item_ids, stored.scores, strict=True)
        kept = [pair for pair in listed if pair[0] not in self._withdrawn][:k]
        return {
            "user_id": user_id,
            "items": scored(kept),
            "source": "store",
            "stale": stored.stale,
            "version": info.version,
            "age_seconds": round(info.age, 3),
            "model_id": info.model_id,
            "index_version": info.index_version,
        }


async def _read(store: TopKStore, read: Callable[[str], Result], user_id: str) -> Result:
    """What one of the store's own methods finds: a few microseconds, or on a thread where it asks over the network."""
    return await asyncio.to_thread(read, user_id) if store.remote else read(user_id)


def scored(listed: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """Items and scores as answers have them."""
    return [{"item_id": item, "score": round(score, 6)} for item, score in listed]
