"""What the chat page takes: its own routes, its own events, small bodies, from its own origin.

Gradio mounts routes for files, recordings, proxies and editors that this page never uses, checks the number of an event
only where it looks it up, and answers a page of any site. `PageGuard` lets through what the page's own script asks for.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec.inference.serve.problem import Problem

_EVENT = "/gradio_api/queue/join"
_READ = (  # what a browser fetches for the page, and the stream of its updates
    "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/assets/", "/static/", "/svelte/",
    "/gradio_api/queue/data", "/gradio_api/heartbeat/", "/gradio_api/info", "/gradio_api/theme.css",
    "/gradio_api/app_id", "/gradio_api/startup-events",
)  # fmt: skip


class PageGuard:
    """ASGI middleware behind `genrec.inference.serve.guard.Guard`, which has taken the whole body in.

    Args:
        events: numbers of the page's events.
    """

    def __init__(self, app: ASGIApp, *, events: Collection[int]) -> None:
        self._app, self._events = app, frozenset(events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["method"] == "POST":
                _check_origin(Headers(scope=scope))
                receive = await self._check_event(scope, receive)
            elif scope["method"] not in ("GET", "HEAD") or not _is_read(scope["path"]):
                raise Problem(404, "unknown-path", "the chat page has no such route")
        elif scope["type"] == "websocket":
            raise Problem(404, "unknown-path", "the chat page has no such route")
        await self._app(scope, receive, send)

    async def _check_event(self, scope: Scope, receive: Receive) -> Receive:
        if scope["path"] != _EVENT:
            raise Problem(404, "unknown-path", "the chat page has no such route, and takes no files")
        message = await receive()
        try:
            event = orjson.loads(message.get("body", b""))
        except orjson.JSONDecodeError:
            raise Problem(400, "bad-request", "an event is a JSON object") from None
        number = event.get("fn_index") if isinstance(event, dict) else None
        if isinstance(number, bool) or not isinstance(number, int) or number not in self._events:
            raise Problem(422, "invalid", "fn_index: the page has no such event")

        messages: list[Message] = [message]

        async def replayed() -> Message:
            return messages.pop() if messages else await receive()

        return replayed


def _is_read(path: str) -> bool:
    return path == "/" or path.startswith(_READ)


def _check_origin(headers: Headers) -> None:
    """Refuse what a page of another site sends; a program that is no browser names no origin."""
    origin = headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
    if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(403, "foreign-origin", "the page takes events from its own origin alone")
