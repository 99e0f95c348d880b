"""Bounds on connections, for uvicorn's `http=`: no client may hold memory, time or places that others need.

uvicorn's parser in C (httptools) is several times faster than its others, but nothing in uvicorn limits a request's
head or the time that a half-sent one may take, and httptools copies a header's value once for every piece of it: one
endless header stalls everybody. hypercorn has a time limit and h11's bound on heads, and parses in Python; granian has
both in Rust, but holds no more than so many connections by letting the others wait, so whoever opens them all shuts
everybody out. Here a new connection takes the place of the one that has kept the server waiting longest.

    uvicorn.Config(app, http=Connections(ConnectionLimits(connections=512)), ws="none")
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from genrec.inference.serve.problem import Problem

_PIPELINED = 100  # requests that may wait for the answer before theirs; uvicorn would keep as many as are sent
_NOTHING = struct.pack("ii", 1, 0)
_LINGER = 1.0  # seconds in which a refused client, who may still be sending, can read why
Stage = Literal["between", "head", "body"]


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection may cost.

    Attributes:
        connections: most that are open; beyond them, the one that has kept the server waiting longest is closed.
        head_bytes: most of a request's line and headers.
        body_bytes: most of a body that the application takes; it refuses more itself, with 413. Somewhat more is read
            and dropped, so that the client gets to read the refusal.
        seconds: that a head may take to arrive, from the connection or from its first byte; a body, or a client that
            does not read its answer, may take twice as long.
    """

    connections: int = 512
    head_bytes: int = 1 << 16
    body_bytes: int = 1 << 16
    seconds: float = 10.0


class Connections:
    """Makes the protocol of each connection of one server, and knows which of them wait for their client."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.waiting: dict[BoundedProtocol, None] = {}  # the one that has waited longest comes first

    def __call__(self, **given: Any) -> asyncio.Protocol:
        return BoundedProtocol(self, **given)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Requests that arrive in one piece, which is nearly all of them, start no timer.

    Args:
        given: what uvicorn makes a protocol with.
    """

    def __init__(self, shared: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._shared, self._limits = shared, shared.limits
        self._stage: Stage = "between"
        self._turns = 0  # how often the stage has changed
        self._bytes = 0  # received in this stage, but for the piece that opened it
        self._head = 0  # bytes of the request's line, its headers and trailers
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._note_waiting()
        self._set_deadline(self._limits.seconds)
        if len(self.connections) > self._limits.connections:
            oldest = next(iter(self._shared.waiting))
            if oldest is self:  # every other one is being answered
                self._refuse(Problem(503, "overloaded", "too many connections", headers={"Retry-After": "1"}))
            else:
                oldest.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        turns = self._turns
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if self._turns == turns:
            if self._stage == "between":  # line breaks, which a client may send before a request
                self._turn("head")
            self._bytes += len(data)
        if self._turns != turns:
            times = {"between": None, "head": self._limits.seconds, "body": 2 * self._limits.seconds}
            self._set_deadline(times[self._stage])
        self._note_waiting()
        if self._stage == "head" and self._bytes > self._limits.head_bytes:
            self._refuse(self._head_too_large())
        elif self._stage == "body" and self._bytes > 4 * self._limits.body_bytes + self._limits.head_bytes:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._turn("head")

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _PIPELINED:
            raise OverflowError
        super().on_headers_complete()
        self._turn("body")

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._turn("between")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_waiting()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(2 * self._limits.seconds, self.drop)
        self._note_waiting()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
        self._note_waiting()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not take."""
        too_large = self._head > self._limits.head_bytes
        self._refuse(self._head_too_large() if too_large else Problem(400, "bad-request", msg))

    def drop(self) -> None:
        """Close the connection at once, and make its place free; what the client has not read is lost."""
        self.connections.discard(self)
        self._forget()
        if (place := self.transport.get_extra_info("socket")) is not None:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOTHING)  # or the system keeps megabytes for it
        self.transport.abort()

    def _turn(self, stage: Stage) -> None:
        self._stage, self._bytes, self._turns = stage, 0, self._turns + 1

    def _count_head(self, size: int) -> None:
        self._head += size
        if self._head > self._limits.head_bytes:
            raise OverflowError  # ends the parser, which then asks for `send_400_response`

    def _head_too_large(self) -> Problem:
        detail = f"The request's line and headers may have at most {self._limits.head_bytes} bytes."
        return Problem(431, "headers-too-large", detail)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self.flow.read_paused:  # by the server, which answers the requests before this one first
            self._set_deadline(self._limits.seconds)
        elif self._stage == "head":
            detail = f"The request's line and headers took over {self._limits.seconds:g} s."
            self._refuse(Problem(408, "slow-headers", detail))
        else:  # nothing was sent yet, or a body whose request the application has answered
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.drop()  # a request before this one is being answered: nothing may be written in between
            return
        self._refused = True
        response = problem.response("/")
        headers = [*response.raw_headers, (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.pause_reading()
        self._set_deadline(None)
        self._deadline = self.loop.call_later(_LINGER, self.drop)

    def _note_waiting(self) -> None:
        """Whether the next step is the client's."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering or self._stage == "body" or self.flow.write_paused:
            self._shared.waiting.setdefault(self)
        else:
            self._shared.waiting.pop(self, None)

    def _forget(self) -> None:
        self._shared.waiting.pop(self, None)
        for timer in (self._deadline, self._unread):
            if timer is not None:
                timer.cancel()
