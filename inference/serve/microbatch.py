"""Live recommendations in batches: requests that arrive together go through the model together.

One task collects requests for a few milliseconds, one thread runs the model. Only requests with equal options (same K,
filter and ranking) share a batch, so that an answer never depends on who else was asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from genrec.semtok.errors import InputError

if TYPE_CHECKING:
    from genrec.inference.recommender import Recommender

Ranking = Literal["beam", "rerank", "dense", "fused"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Question:
    """One request for a live list."""

    history: tuple[str, ...]  # item ids of the catalogue, oldest first; empty for an anonymous user
    k: int  # number of items
    exclude_seen: bool = True  # leave out the history's items
    where: tuple[tuple[str, Any], ...] = ()  # attribute conditions as `Recommender.recommend` takes them, in any order
    deny: tuple[str, ...] = ()  # item ids that must not come back
    ranking: Ranking | None = None  # how to rank; the run's default where None

    @property
    def group(self) -> str:
        """Equal for questions that may share a batch."""
        return repr((self.k, self.exclude_seen, sorted(self.where), self.ranking))


@dataclass(frozen=True)
class LiveList:
    """The answer to a question, best first; `reason` says why it is shorter than K, where it is."""

    items: list[tuple[str, float]]  # ids and scores
    reason: str | None


class Overloaded(RuntimeError):
    """The queue is full."""


@dataclass(eq=False)
class _Waiting:
    question: Question
    answer: asyncio.Future[LiveList]
    since: float = field(default_factory=time.monotonic)


class MicroBatcher:
    """Collects questions and answers them through a recommender.

    Args:
        recommender: its methods are used from one thread only.
        batch: most questions that go through the model together.
        wait_ms: how long the first of a batch waits for company.
        queue: most questions waiting; more are refused.
        observe: called with each batch's size.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        batch: int,
        wait_ms: float,
        queue: int,
        observe: Callable[[int], object] = lambda size: None,
    ) -> None:
        self.recommender, self._batch, self._wait, self._queue = recommender, batch, wait_ms / 1000, queue
        self._observe = observe
        self.proven = False  # whether the last batch was answered
        self._waiting: deque[_Waiting] = deque()
        self._calls = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recommender")
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._waiting)

    async def ask(self, question: Question) -> LiveList:
        """The list for a question.

        Raises:
            Overloaded: the queue is full.
            InputError: from the recommender, e.g. a filter on an attribute that does not exist.
        """
        if len(self._waiting) >= self._queue:
            raise Overloaded(f"{self._queue} requests are waiting already")
        waiting = _Waiting(question, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run another of the recommender's methods on its thread; raises Overloaded where as many wait as may."""
        if self._calls >= self._queue:
            raise Overloaded(f"{self._queue} requests are waiting already")
        self._calls += 1
        try:
            return await self._on_thread(function, *arguments)
        finally:
            self._calls -= 1

    async def _on_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def close(self) -> None:
        """Answer what is waiting, then stop."""
        while self._waiting:
            await asyncio.wait([waiting.answer for waiting in self._waiting])
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            patience = self._waiting[0].since + self._wait - time.monotonic()
            if len(self._waiting) < self._batch and patience > 0:
                await asyncio.sleep(patience)
            batch = self._take()
            if batch:
                self._observe(len(batch))
                await self._answer(batch)
            if not self._waiting:
                self._arrived.clear()

    def _take(self) -> list[_Waiting]:
        """The oldest question and those like it, in order; who gave up meanwhile is dropped."""
        alive = [waiting for waiting in self._waiting if not waiting.answer.done()]
        batch = [waiting for waiting in alive if waiting.question.group == alive[0].question.group][: self._batch]
        chosen = set(batch)
        self._waiting = deque(waiting for waiting in alive if waiting not in chosen)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            lists = await self._on_thread(self._recommend, [waiting.question for waiting in batch])
        except Exception as error:  # whatever it is belongs to those who asked; the loop goes on
            self.proven = self.proven and isinstance(error, InputError)
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        self.proven = True
        for waiting, answer in zip(batch, lists, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    def _recommend(self, questions: list[Question]) -> list[LiveList]:
        first = questions[0]
        found = self.recommender.recommend(
            [question.history for question in questions],
            k=first.k,
            ranking=first.ranking,
            filter_viewed=first.exclude_seen,
            where=dict(first.where) or None,
            deny=[question.deny for question in questions],
        )
        return [LiveList(found.pairs(i), reason) for i, reason in enumerate(found.reasons)]
