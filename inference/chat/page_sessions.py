"""Who is at the chat page: a conversation for each browser tab, and one worker that takes their turns in order.

sessions = Sessions(begin)
name, session = sessions.open(name)               # another name where the old one is not known any more
async for line in turns.stream(work): ...         # `work(send)` runs when its turn comes
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

from genrec.inference.chat.session import ChatSession
from genrec.inference.serve.problem import Problem

Send = Callable[[bytes], object]
KEPT_SECONDS = 3600.0
MOST_SESSIONS = 1000
MOST_WAITING = 64  # turns
_NAME_BYTES = 24


class Sessions:
    """Conversations by names that nobody can guess, dropped an hour after they were last used.

    Args:
        begin: makes a new conversation.
        clock: seconds that only go forward.
    """

    def __init__(self, begin: Callable[[], ChatSession], clock: Callable[[], float] = time.monotonic) -> None:
        self._begin, self._clock = begin, clock
        self._kept: OrderedDict[str, tuple[ChatSession, float]] = OrderedDict()  # the one unused longest first
        self._lock = threading.Lock()

    def get(self, name: str) -> ChatSession | None:
        """The conversation of that name, used now."""
        with self._lock:
            self._drop_old()
            if name not in self._kept:
                return None
            session, _ = self._kept.pop(name)
            self._kept[name] = session, self._clock()
            return session

    def open(self, name: str) -> tuple[str, ChatSession]:
        """The conversation of that name, or a new one under a new name."""
        session = self.get(name)
        if session is None:
            name, session = secrets.token_urlsafe(_NAME_BYTES), self._begin()
            with self._lock:
                self._kept[name] = session, self._clock()
                if len(self._kept) > MOST_SESSIONS:
                    self._kept.popitem(last=False)
        return name, session

    def _drop_old(self) -> None:
        while self._kept:
            name, (_, used) = next(iter(self._kept.items()))
            if self._clock() - used <= KEPT_SECONDS:
                return
            del self._kept[name]


class Turns:
    """One turn at a time, in the order in which they were asked for: they share one model.

    A turn that has begun goes on to its end when nobody is left to read it, so that no conversation is left half way.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="turns")
        self._waiting = 0

    def stream(self, work: Callable[[Send], None]) -> AsyncGenerator[bytes, None]:
        """Have `work` done when its turn comes; what it sends, as it is sent. Raises Problem where too many wait."""
        if self._waiting >= MOST_WAITING:
            raise Problem(503, "overloaded", "too many turns are waiting", headers={"Retry-After": "5"})
        self._waiting += 1
        loop = asyncio.get_running_loop()
        sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        done = loop.run_in_executor(self._worker, work, lambda line: loop.call_soon_threadsafe(sent.put_nowait, line))

        def finish(_: object) -> None:
            self._waiting -= 1
            sent.put_nowait(None)

        done.add_done_callback(finish)
        return _lines(sent, done)

    def close(self) -> None:
        """Wait for the turn that is being taken, and take no more."""
        self._worker.shutdown(cancel_futures=True)


async def _lines(sent: asyncio.Queue[bytes | None], done: asyncio.Future[None]) -> AsyncGenerator[bytes, None]:
    while (line := await sent.get()) is not None:
        yield line
    done.result()
