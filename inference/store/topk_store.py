"""What a top-K store is: it loads a batch job's lists, answers by user id, and replaces them atomically under readers.

The types and the protocol alone: `genrec.inference.store.opening` opens a store, `genrec store` loads one from the
command line.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import polars as pl

LONGEST_HISTORY = 200  # items of a user that a store keeps, the latest


@dataclass(frozen=True)
class ListsInfo:
    """One loaded batch."""

    version: str  # the store's own count, "v000001" and up
    model_id: str  # the run that made the lists
    ranking: str  # how the run ranked ("beam", "fused", ...)
    index_version: str  # of the semantic IDs that the lists came out of
    as_of: float  # seconds since the epoch; events up to then are in the lists
    users: int  # lists in this version
    items: int  # items in its table

    def __post_init__(self) -> None:
        if not (math.isfinite(self.as_of) and min(self.users, self.items) >= 0):
            raise ValueError("as_of is no time, or users and items are no counts")

    @property
    def age(self) -> float:
        """Seconds since `as_of`."""
        return max(0.0, time.time() - self.as_of)


class StoredList(NamedTuple):
    """One user's list, best first. A named tuple: one is built on every look-up, and a frozen dataclass is slower."""

    item_ids: tuple[str, ...]  # at most K of them
    scores: tuple[float, ...]  # aligned with `item_ids`
    info: ListsInfo  # the batch that it comes from; its version, age and model
    stale: bool  # events later than the batch are known for this user


class TopKStore(Protocol):
    """What the server needs of a store. Safe for threads; several processes may hold the same one.

    Every method of a remote store raises `StoreUnavailable` while its server does not answer.
    """

    remote: bool  # a look-up waits for the network, so that an event loop hands it to a thread

    def get(self, user_id: str) -> StoredList | None:
        """The user's list, or None where the current batch has none (or no batch is loaded)."""

    def get_many(self, user_ids: Sequence[str]) -> list[StoredList | None]:
        """As `get` for each user, all out of one version."""

    def history(self, user_id: str) -> tuple[str, ...]:
        """Item ids, oldest first: the history loaded with the batch, then the events added after it."""

    def add_events(self, user_id: str, item_ids: Sequence[str], at: float | None = None) -> None:
        """Append items to the user's history; the stored list is stale until a later batch is loaded. Raises StoreFull
        where there is no room before that.
        """

    def info(self) -> ListsInfo | None:
        """The batch being served, or None where there is none."""

    def load(self, batch: Path, *, as_of: float | None = None, histories: pl.DataFrame | None = None) -> ListsInfo:
        """Load a batch job's folder (see `read_batch`) and switch to it, keeping the version before; raises InputError
        where it is broken or another load is running, and the old version goes on serving.
        """

    def rollback(self) -> ListsInfo:
        """Go back to the version before; a second rollback returns. Raises InputError where there is none."""

    def close(self) -> None: ...


class StoreFull(RuntimeError):
    """No room for more events until the next batch is loaded."""


class StoreUnavailable(RuntimeError):
    """The store's server does not answer, or lost what it held."""
