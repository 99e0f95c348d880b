"""Errors over HTTP as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from genrec.inference.store.topk_store import StoreFull, StoreUnavailable
from genrec.semtok.errors import InputError

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An error that is answered with a problem document.

    Args:
        status: HTTP status.
        kind: a short name that programs can tell problems apart by; the document's `type` is `urn:genrec:KIND`.
        detail: one sentence for a person.
        headers: of the answer.
        more: further members of the document.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.headers, self.more = status, kind, detail, headers, more

    def response(self, instance: str) -> Response:
        """The document; `instance` is the path that was asked for."""
        document = {
            "type": f"urn:genrec:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            **self.more,
        }
        body = orjson.dumps(document, default=str)
        return Response(body, self.status, headers=dict(self.headers or {}), media_type=MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """What an error is answered with."""
    match error:
        case Problem():
            return error
        case HTTPException():
            kind = {404: "unknown-path", 405: "wrong-method", 400: "bad-request"}.get(error.status_code, "http")
            return Problem(error.status_code, kind, str(error.detail), headers=error.headers)
        case RequestValidationError():
            errors = [{"at": ".".join(map(str, fault["loc"])), "message": fault["msg"]} for fault in error.errors()]
            detail = "; ".join(f"{fault['at']}: {fault['message']}" for fault in errors[:3])
            return Problem(422, "invalid", detail, errors=errors[:20])
        case StoreFull():
            return Problem(503, "events-full", "no room for more events before the next batch")
        case StoreUnavailable():
            return Problem(503, "store-down", "the store does not answer", headers={"Retry-After": "1"})
        case _:
            return Problem(422, "invalid", str(error))


async def _respond(request: Request, error: Exception) -> Response:
    return problem_of(error).response(request.url.path)


HANDLED = (Problem, HTTPException, RequestValidationError, InputError, StoreFull, StoreUnavailable)
HANDLERS: dict[int | type[Exception], Any] = dict.fromkeys(HANDLED, _respond)
