"""The web page of `genrec chat RUN --web`: a conversation, the cards it brings, and all that is known of the person.

    serve_page(ChatConfig(Path("runs/demo"), web=True))          # http://127.0.0.1:7860
    app = create_page_app({"demo": lambda: Conversation(recommender)})

One HTML, one style sheet and one script, without a build step and without anything from elsewhere:

    GET  /              the page; /page.css, /page.js
    GET  /api/shop      what is the same for everybody (`page_view.shop_view`)
    POST /api/act       {"act": "say", "text": "coffee"}: lines of JSON as they come, `writing` and at last the `page`
    POST /api/details   {"run": "demo", "item": "7", "level": "1"}: all of a card
    POST /api/titles    {"text": "mug"}: items to add to the history

A browser tab names its conversation in the header X-Conversation; its first act gets that name.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from genrec.inference.chat.config import ChatConfig
from genrec.inference.chat.conversation import Conversation
from genrec.inference.chat.model_prose import prose_for
from genrec.inference.chat.model_reader import reader_for
from genrec.inference.chat.page_guard import PageGuard, PageHeaders
from genrec.inference.chat.page_sessions import Send, Sessions, Turns
from genrec.inference.chat.page_view import details_view, picture_origins, session_view, shop_view
from genrec.inference.chat.session import ChatSession
from genrec.inference.recommender import Recommender
from genrec.inference.serve.connections import ConnectionLimits, Connections
from genrec.inference.serve.guard import Guard, RateLimit
from genrec.inference.serve.problem import HANDLERS, Problem
from genrec.semtok.errors import InputError

log = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_BODY_BYTES = 1 << 16  # an act is a few hundred bytes, a long message a few thousand
_SECONDS = 10.0  # for headers or a body on their way
_MOST_PICTURE_SITES = 20  # more would make a header that proxies refuse


def serve_page(config: ChatConfig) -> None:
    """Serve the page until told to stop; raises InputError where no run opens, or two have other items."""
    runs = _named([config.run] if config.compare is None else [config.run, config.compare])
    recommenders = {
        name: Recommender.from_pretrained(run, device=config.device, verify=config.verify) for name, run in runs.items()
    }
    first, *others = recommenders.values()
    for other in others:
        if set(other.catalog.item_ids) != set(first.catalog.item_ids):
            raise InputError(f"--compare: {config.compare} and {config.run} do not have the same items")
    makers = {}
    for name, recommender in recommenders.items():
        server = config.prose if recommender is first else None  # it runs the first run's model
        prose = prose_for(runs[name], recommender, server=server, verify=config.verify)
        reader = reader_for(config.reader, recommender.catalog)
        makers[name] = partial(Conversation, recommender, k=config.k, prose=prose, reader=reader)
    sites = picture_origins(first.catalog) if config.images else []
    if len(sites) > _MOST_PICTURE_SITES:
        raise InputError(f"--images: pictures of {len(sites)} sites; at most {_MOST_PICTURE_SITES} can be allowed")
    uvicorn.run(
        create_page_app(makers, images=config.images, pictures=sites),
        host=config.host, port=config.port, access_log=False, server_header=False, ws="none",
        http=Connections(ConnectionLimits(body_bytes=_BODY_BYTES, seconds=_SECONDS)),  # type: ignore[arg-type]
    )  # fmt: skip


def _named(runs: list[Path]) -> dict[str, Path]:
    """Runs by the name of their folder, by the whole path where two have one name."""
    names = [run.resolve().name for run in runs]
    return dict(zip(names if len(set(names)) == len(runs) else map(str, runs), runs, strict=True))


def create_page_app(
    conversations: Mapping[str, Callable[[], Conversation]], *, images: bool = False, pictures: list[str] | None = None
) -> Starlette:
    """The page over one run or two, as an application that any ASGI server can run.

    Args:
        conversations: by the run's name, what makes a new conversation; every browser tab makes its own.
        images: show the pictures that a column of the catalogue names.
        pictures: the sites that they come from.
    """
    page = _Page(conversations, images=images)
    routes = [Route(path, partial(_file, *file), methods=["GET"]) for path, file in _FILES.items()]
    routes += [
        Route("/api/shop", page.shop, methods=["GET"]),
        Route("/api/act", page.act, methods=["POST"]),
        Route("/api/details", page.details, methods=["POST"]),
        Route("/api/titles", page.titles, methods=["POST"]),
    ]
    guard = Middleware(Guard, api_key=None, limit=RateLimit(0, 1), body_bytes=_BODY_BYTES, body_seconds=_SECONDS)
    return Starlette(
        routes=routes, exception_handlers=HANDLERS, lifespan=page.lifespan,
        middleware=[Middleware(PageHeaders, pictures=pictures or []), guard, Middleware(PageGuard)],
    )  # fmt: skip


async def _file(name: str, media_type: str, request: Request) -> Response:
    return Response((_HERE / name).read_bytes(), media_type=media_type)


class _Page:
    def __init__(self, conversations: Mapping[str, Callable[[], Conversation]], *, images: bool) -> None:
        self._makers, self._images = conversations, images
        self._sessions = Sessions(lambda: ChatSession(self._conversations()))
        self._turns = Turns()
        self._shop: bytes | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self._turns.close()

    def _conversations(self) -> dict[str, Conversation]:
        return {name: make() for name, make in self._makers.items()}

    async def shop(self, request: Request) -> Response:
        if self._shop is None:
            self._shop = await run_in_threadpool(lambda: orjson.dumps(shop_view(self._conversations())))
        return Response(self._shop, media_type="application/json")

    async def act(self, request: Request) -> Response:
        asked = await _asked(request)
        work = partial(self._take_turn, request.headers.get("x-conversation", ""), asked)
        return StreamingResponse(self._turns.stream(work), media_type="application/x-ndjson")

    def _take_turn(self, name: str, asked: Mapping[str, str], send: Send) -> None:
        """One act of one conversation, from the worker: its name, what is being written, and the page after it."""
        try:
            given, session = self._sessions.open(name)
            send(_line({"conversation": given}))
            for _ in session.act(asked) if asked.get("act") != "open" else ():
                if session.writing is not None:
                    send(_line({"writing": session.writing}))
            send(_line({"page": session_view(session, images=self._images)}))
        except Exception:
            log.exception("a turn of the chat page failed")
            send(_line({"failed": "The server failed; its log says why."}))

    async def details(self, request: Request) -> Response:
        asked = await _asked(request)
        level = asked.get("level", "")
        if level and not (level.isdecimal() and len(level) < 4):
            raise Problem(422, "invalid", f"level: {level[:20]!r} is not a number of codes")
        return await self._read(
            request,
            lambda session: details_view(
                session, asked.get("run", session.view[0]), asked.get("item", ""), int(level) if level else None,
                images=self._images,
            ),
        )  # fmt: skip

    async def titles(self, request: Request) -> Response:
        asked = await _asked(request)
        return await self._read(
            request,
            lambda session: [
                {"id": item, "title": session.title(item)} for item in session.find(asked.get("text", ""))
            ],
        )

    async def _read(self, request: Request, read: Callable[[ChatSession], Any]) -> Response:
        session = self._sessions.get(request.headers.get("x-conversation", ""))
        if session is None:
            raise Problem(409, "no-conversation", "this conversation has ended; begin another one")
        return Response(orjson.dumps(await run_in_threadpool(read, session)), media_type="application/json")


def _line(message: Mapping[str, Any]) -> bytes:
    return orjson.dumps(message) + b"\n"


async def _asked(request: Request) -> dict[str, str]:
    """The body: an object of texts."""
    try:
        asked = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise Problem(400, "bad-request", "the body is not JSON") from None
    if not isinstance(asked, dict) or not all(isinstance(value, str) for value in asked.values()):
        raise Problem(422, "invalid", "the body is an object whose values are texts")
    return asked
