"""The web page of `genrec chat RUN --web`: chat beside item cards, with everything known of the person in sight.

    serve_page(ChatConfig(Path("runs/demo"), web=True))          # http://127.0.0.1:7860
    app = create_page_app(build_page({"demo": lambda: Conversation(recommender)}))

Gradio carries sessions, the queue and the stream of updates. The markup is our own (`chat.page_parts`),
because cards with buttons, chips and codes have to work by keyboard and at phone width. The browser gets nothing from
anywhere but this server: fonts are the system's, and a Content-Security-Policy forbids the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # also for what no argument of ours reaches

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec.inference.chat import page_parts as parts
from genrec.inference.chat.config import ChatConfig
from genrec.inference.chat.conversation import Conversation
from genrec.inference.chat.model_prose import prose_for
from genrec.inference.chat.page_guard import PageGuard
from genrec.inference.chat.session import ChatSession
from genrec.inference.recommender import Recommender
from genrec.inference.serve.connections import ConnectionLimits, Connections
from genrec.inference.serve.guard import Guard, RateLimit
from genrec.semtok.errors import InputError

_HERE = Path(__file__).parent
# Gradio starts its page with scripts in the page and compiles templates from text, so those two must stay allowed.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; form-action 'self'"
_DRAW = (parts.header, parts.log, parts.cards, parts.person)
_BODY_BYTES = 1 << 16  # an event is a few hundred bytes, a long message a few thousand
_SECONDS = 10.0  # for headers or a body on their way
_FONT = ["system-ui", "sans-serif"]


def serve_page(config: ChatConfig) -> None:
    """Serve the page until told to stop.

    Raises:
        InputError: a run cannot be opened, or the two runs do not have the same items.
    """
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
        makers[name] = partial(Conversation, recommender, k=config.k, prose=prose)
    page = build_page(makers)
    uvicorn.run(
        create_page_app(page), host=config.host, port=config.port, access_log=False, server_header=False, ws="none",
        http=Connections(ConnectionLimits(body_bytes=_BODY_BYTES, seconds=_SECONDS)),  # type: ignore[arg-type]
    )  # fmt: skip


def _named(runs: list[Path]) -> dict[str, Path]:
    """Runs by the name of their folder, by the whole path where two have one name."""
    names = [run.resolve().name for run in runs]
    return dict(zip(names if len(set(names)) == len(runs) else map(str, runs), runs, strict=True))


def build_page(conversations: Mapping[str, Callable[[], Conversation]]) -> gr.Blocks:
    """The page over one run or two.

    Args:
        conversations: by the run's name, what makes a new conversation; every browser session makes its own.
    """

    def begin() -> ChatSession:
        return ChatSession({name: make() for name, make in conversations.items()})

    def act(
        session: ChatSession | None, drawn: tuple[str, ...] | None, event: gr.EventData
    ) -> Iterator[tuple[Any, ...]]:
        request = {str(name): str(value) for name, value in event._data.items()}
        session = session or begin()  # a page that was open before the server started again
        for _ in session.act(request):
            yield (shown := _show(session, drawn))
            drawn = shown[1]

    with gr.Blocks(title="genrec", analytics_enabled=False, fill_width=True) as page:
        state = gr.State(None)
        drawn = gr.State(None)
        script = (_HERE / "page.js").read_text()
        draw = partial(gr.HTML, js_on_load=script, apply_default_css=False)
        with gr.Column(elem_id="page"):  # in the order in which the keyboard goes through them
            header, log = draw(elem_id="header"), draw(elem_id="log")
            composer = draw(parts.COMPOSER, elem_id="composer")
            cards, person = draw(elem_id="cards"), draw(elem_id="person")
        regions = [header, log, cards, person]
        outputs = [state, drawn, *regions]
        # One turn at a time: turns of one session must not overlap, and the model is shared by all of them.
        options = {
            "concurrency_limit": 1,
            "concurrency_id": "turns",
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        page.load(lambda: _show(begin(), None), outputs=outputs, **options)
        for place in (*regions, composer):
            place.act(act, inputs=[state, drawn], outputs=outputs, trigger_mode="multiple", **options)
    return page


def _show(session: ChatSession, drawn: tuple[str, ...] | None) -> tuple[Any, ...]:
    """The session, what is drawn of it from now on, and the regions that differ from what was drawn before."""
    new = tuple(draw(session) for draw in _DRAW)
    old = drawn or (None,) * len(new)
    changed = [gr.skip() if html == before else html for html, before in zip(new, old, strict=True)]
    return session, new, *changed


def create_page_app(page: gr.Blocks) -> FastAPI:
    """The page as an application that any ASGI server can run."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(PageGuard, events=page.fns.keys())
    app.add_middleware(
        Guard, api_key=None, limit=RateLimit(0, 1), body_bytes=_BODY_BYTES, body_seconds=_SECONDS, observe=_unobserved
    )
    app.add_middleware(_Policy)  # added last, it comes first: the answers of the others have it too
    theme = gr.themes.Base(font=_FONT, font_mono=["ui-monospace", "monospace"])
    # run_history would keep every turn in the browser's own storage.
    gr.mount_gradio_app(
        app, page, path="/", theme=theme, css_paths=_HERE / "page.css", footer_links=[], run_history=False,
        ssr_mode=False, show_error=False, enable_monitoring=False, mcp_server=False, pwa=False,
    )  # fmt: skip
    return app


def _unobserved(route: str, method: str, status: int, seconds: float) -> None:
    """The page has no metrics."""


class _Policy:
    """Adds the Content-Security-Policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self.app(scope, receive, send_with_policy)
