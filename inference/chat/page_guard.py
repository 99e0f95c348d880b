"""What the chat page takes and gives: requests from its own origin alone, answers under a strict policy.

The page is one HTML, one style sheet and one script of the package, so the policy needs no exceptions: no script or
style in the page's text, nothing evaluated, nothing from elsewhere, no frame around it. Bodies and times are bounded by
`genrec.inference.serve.guard.Guard`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec.inference.serve.problem import Problem


def policy(pictures: Sequence[str] = ()) -> str:
    """The Content-Security-Policy; `pictures` are the sites whose pictures may be shown."""
    return "; ".join([
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
        " ".join(["img-src 'self' data:", *pictures]),
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    ])  # fmt: skip


class PageGuard:
    """ASGI middleware behind `Guard`: refuses what a page of another site sends.

    A browser says from where a request comes; a program that is no browser names no origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
            if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise Problem(403, "foreign-origin", "the page takes requests from its own origin alone")
        await self._app(scope, receive, send)


class PageHeaders:
    """Adds the policy, and what else keeps an answer what it is, to every answer."""

    def __init__(self, app: ASGIApp, *, pictures: Sequence[str] = ()) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": policy(pictures), "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
        }  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)
