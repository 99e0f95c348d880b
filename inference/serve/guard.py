"""Checks before every route: API key, rate limit, size and time of the body; every error becomes a problem document."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec.inference.serve.problem import Problem

log = logging.getLogger(__name__)
_OPEN = ("/health/", "/openapi.json", "/docs")  # asked by probes and people who hold no key


class RateLimit:
    """A token bucket a client.

    Args:
        rate: requests per second that a client may go on making; 0 for no limit.
        burst: requests that it may make at once.
        clients: buckets kept; the one unused longest goes first.
    """

    def __init__(self, rate: float, burst: float, *, clients: int = 10_000) -> None:
        self._rate, self._burst, self._clients = rate, burst, clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Take a token at `now` (seconds): 0, or the seconds until there is one."""
        if not self._rate:
            return 0.0
        tokens, since = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._rate


class Guard:
    """ASGI middleware. A plain one, for it runs on every look-up.

    Args:
        api_key: expected as `X-API-Key: KEY` or `Authorization: Bearer KEY`; None lets everybody in.
        limit: a client is its address.
        body_bytes, body_seconds: a body that is larger, or takes longer to arrive, is refused.
        observe: called with route, method, status and seconds after each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        limit: RateLimit,
        body_bytes: int,
        body_seconds: float,
        observe: Callable[[str, str, int, float], object] = lambda *_: None,
    ) -> None:
        self._app, self._key, self._limit = app, None if api_key is None else api_key.encode(), limit
        self._body_bytes, self._body_seconds, self._observe = body_bytes, body_seconds, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            _check_path(scope)
            if scope["method"] not in ("GET", "HEAD"):
                receive = _replay(await self._read(scope, receive), receive)
            await self._app(scope, receive, counted)
        except ClientDisconnect:
            pass  # nobody is left to answer; counted with status 0
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, counted)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise  # the answer has begun; the server cuts the connection
            failure = Problem(500, "internal", "The server failed; its log says why.")
            await failure.response(scope["path"])(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched").replace(":id}", "}")
            self._observe(route, scope["method"], status, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        if scope["path"] == "/" or scope["path"].startswith(_OPEN):
            return
        wait = self._limit.wait(scope["client"][0] if scope["client"] else "", time.monotonic())
        if wait:
            headers = {"Retry-After": str(math.ceil(wait))}
            raise Problem(429, "rate-limited", f"Too many requests; the next in {wait:.2f} s.", headers=headers)
        if self._key is not None and not hmac.compare_digest(_given_key(scope), self._key):
            headers = {"WWW-Authenticate": "Bearer"}
            detail = "An API key is required, as X-API-Key: KEY or Authorization: Bearer KEY."
            raise Problem(401, "no-key", detail, headers=headers)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Take the whole body in."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._body_bytes:
                raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    body += message.get("body", b"")
                    if len(body) > self._body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Problem(408, "slow-body", f"The body took over {self._body_seconds:g} s.") from None
        return bytes(body)

    def _too_large(self) -> Problem:
        return Problem(413, "body-too-large", f"A body may have at most {self._body_bytes} bytes.")


def _check_path(scope: Scope) -> None:
    """Refuse a path that is no text: decoded as it could be, two users' ids would become one."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%" in raw:
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise Problem(400, "bad-request", "the path is not percent-encoded UTF-8") from None


def _given_key(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return bytes(value).strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:]).strip()
    return b""


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that hands on a body taken in already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
