"""The HTTP application: which route answers at which path.

Lists come from the store in microseconds; a user whose list is stale or missing, and every request with a history or a
filter, is answered by the model. An id in a path may hold any character, percent-encoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Query, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response

from genrec.inference.serve import api_models as api
from genrec.inference.serve.answers import Answers, scored
from genrec.inference.serve.config import ServeConfig
from genrec.inference.serve.guard import Guard, RateLimit
from genrec.inference.serve.metrics import ServeMetrics
from genrec.inference.serve.microbatch import MicroBatcher, Question
from genrec.inference.serve.problem import HANDLERS, MEDIA_TYPE, Problem
from genrec.inference.store.topk_store import StoreUnavailable, TopKStore
from genrec.recommendations import Recommendations
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError

if TYPE_CHECKING:
    from genrec.inference.recommender import Recommender

log = logging.getLogger(__name__)


def create_app(
    recommender: Recommender | None,
    store: TopKStore | None,
    config: ServeConfig,
    *,
    catalog: Catalog | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """The application.

    Args:
        recommender: answers live; None serves stored lists only, and `catalog` must be given.
        store: None where there are no lists.
        api_key: what clients must show; None lets everybody in.
    """
    items = recommender.catalog if recommender is not None else catalog
    if items is None:
        raise ValueError("without a recommender, a catalogue must be given")
    metrics = ServeMetrics()
    service = _Service(recommender, store, items, config, metrics)

    app = FastAPI(
        title="genrec",
        description=(__doc__ or "").partition("\n\n")[2],
        lifespan=service.lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        exception_handlers=HANDLERS,
    )
    app.add_middleware(
        Guard,
        api_key=api_key,
        limit=RateLimit(config.rate, burst=max(1.0, 2 * config.rate)),
        body_bytes=config.max_body_bytes,
        body_seconds=config.timeout,
        observe=metrics.request,
    )
    _add_user_routes(app, service)
    _add_item_routes(app, service)
    _add_search_route(app, service)
    _add_health_routes(app, service)
    _add_pages(app)
    _describe(app, keyed=api_key is not None)
    return app


@dataclasses.dataclass(eq=False)
class _Service:
    """What the routes share; the queue and its thread live between startup and shutdown."""

    recommender: Recommender | None
    store: TopKStore | None
    catalog: Catalog
    config: ServeConfig
    metrics: ServeMetrics
    batcher: MicroBatcher | None = None  # None where nothing is answered live
    answers: Answers = dataclasses.field(init=False)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        config, observe = self.config, self.metrics.batch
        if self.recommender is not None:
            self.batcher = MicroBatcher(
                self.recommender, batch=config.batch, wait_ms=config.wait_ms, queue=config.queue, observe=observe
            )
        self.answers = Answers(self.catalog, self.store, self.batcher, timeout=config.timeout)
        yield
        if self.batcher is not None:
            await self.batcher.close()

    async def prove(self) -> None:
        """Have the model answer a request, unless the last one that it got was answered; else 503."""
        if self.batcher is None or self.batcher.proven:
            return
        question = Question((self.catalog.item_ids[-1],), 1)  # the newest item: what an interrupted change lacks first
        try:
            await self.answers.live(question, user_id=None, unknown=[])
        except Problem as problem:
            raise Problem(503, "not-ready", f"no live recommendation: {problem.detail}") from None
        except Exception:
            log.exception("a live recommendation failed")
            raise Problem(503, "not-ready", "a live recommendation failed; the log says why") from None

    def model(self) -> Recommender:
        """What answers live; a 503 where nothing does."""
        if self.recommender is None:
            raise Problem(503, "live-off", "live recommendations are off")
        return self.recommender

    async def ask(self, function: Callable[..., Recommendations], *arguments: Any) -> Recommendations:
        """One of the model's methods on its thread; 422 for a filter that makes no sense, 503 and 504 as for lists."""
        assert self.batcher is not None
        return await self.answers.in_time(self.batcher.call(function, *arguments))

    def expanded(self, answer: dict[str, Any], expand: str | None) -> dict[str, Any]:
        """An answer with the titles of its items where they are asked for."""
        for item in answer["items"] if expand == "title" else ():
            row = self.catalog.find_row(item["item_id"])
            item["title"] = None if row is None else self.catalog.titles[row]
        return answer

    def row(self, item_id: str) -> int:
        try:
            return self.catalog.row(item_id)
        except InputError as error:
            raise Problem(404, "unknown-item", str(error)) from None

    def check_length(self, name: str, items: list[str] | None) -> None:
        if items is not None and len(items) > self.config.max_history:
            raise Problem(422, "invalid", f"{name}: {len(items)} items; at most {self.config.max_history}")


class _Id(PathConvertor):
    """The rest of a path, line breaks too, at which Starlette's own `path` stops."""

    regex = "(?s:.*)"


register_url_convertor("id", _Id())
_EXPAND = "title: each item's title too."
Expand = Annotated[Literal["title"] | None, Query(description=_EXPAND)]


def _add_user_routes(app: FastAPI, service: _Service) -> None:
    config = service.config

    @app.get(
        "/v1/users/{user_id:id}/recommendations",
        openapi_extra={"parameters": _user_and_k(config.max_k)},
        **_gives(api.RecommendationsAnswer, "recommendations"),
    )
    async def user_recommendations(request: Request) -> Response:
        """A user's list: the stored one, or a live one where events have made that stale or there is none."""
        # The busiest route reads its two parameters itself: FastAPI's own reading takes longer than all the rest.
        user_id = request.path_params["user_id"]
        if not 1 <= len(user_id) <= api.LONGEST_USER:
            raise Problem(422, "invalid", f"path.user_id: 1 to {api.LONGEST_USER} characters")
        expand = _read_expand(request)
        answer = await service.answers.for_user(user_id, _read_k(request, config.max_k))
        service.metrics.answer(answer["source"], answer["stale"])
        return _json(service.expanded(answer, expand))

    @app.post("/v1/recommendations", **_gives(api.RecommendationsAnswer, "recommendations"))
    async def live_recommendations(asked: api.RecommendationsRequest, expand: Expand = None) -> Response:
        """A live list for a history, or for what is known of a user, under filters."""
        if asked.k > config.max_k:
            raise Problem(422, "invalid", f"k: {asked.k}; at most {config.max_k}")
        service.check_length("history", asked.history)
        service.check_length("deny", asked.deny)
        history = asked.history
        if history is None:
            history = [] if asked.user_id is None else list(await service.answers.history(asked.user_id))
        known, unknown = service.answers.split(history)
        deny, more_unknown = service.answers.split(asked.deny)
        answer = await service.answers.live(
            asked.question(known, deny), user_id=asked.user_id, unknown=list(dict.fromkeys(unknown + more_unknown))
        )
        service.metrics.answer("live", False)
        return _json(service.expanded(answer, expand))

    @app.post("/v1/users/{user_id:id}/events", **_gives(api.EventsAnswer, "events", status=202))
    async def user_events(asked: api.EventsRequest, user_id: api.UserId) -> Response:
        """Add to a user's history: the stored list is stale from now on, until a later batch is loaded."""
        service.check_length("item_ids", asked.item_ids)
        if service.store is None:
            raise Problem(503, "no-store", "there is no store to keep events in")
        known, unknown = service.answers.split(asked.item_ids)
        if known:
            await asyncio.to_thread(service.store.add_events, user_id, known)
        return _json({"user_id": user_id, "accepted": len(known), "unknown_items": unknown}, status=202)


def _add_item_routes(app: FastAPI, service: _Service) -> None:
    most = service.config.max_k
    k_query = Query(min(10, most), ge=1, le=most, description="Number of items.")

    @app.get("/v1/items/{item_id:id}/similar", **_gives(api.SimilarAnswer, "items"))
    async def similar_items(request: Request, item_id: api.ItemId, k: int = k_query, expand: Expand = None) -> Response:
        """Items similar to this item, most similar first."""
        if not request.scope["raw_path"].endswith(b"/similar"):  # the slash was encoded: it is the id's own
            return await item(f"{item_id}/similar")
        service.row(item_id)
        model = service.model()
        found = await service.ask(model.similar, item_id, k)
        answer = {"item_id": item_id, "items": scored(found.pairs()), "model_id": model.run_id}
        return _json(service.expanded(answer, expand))

    @app.get("/v1/items/{item_id:id}", **_gives(api.ItemAnswer, "items"))
    async def item(item_id: api.ItemId) -> Response:
        """An item's title, attributes and semantic ID."""
        row, table = service.row(item_id), service.catalog.attributes
        codes = None if service.recommender is None else service.recommender.semantic_ids.codes
        return _json(
            {
                "item_id": item_id,
                "title": service.catalog.titles[row],
                "attributes": table.row(row, named=True) if table.width else {},
                "withdrawn": bool(service.catalog.withdrawn[row]),
                "semantic_id": None if codes is None or row >= len(codes) else codes[row].tolist(),
            }
        )


def _add_search_route(app: FastAPI, service: _Service) -> None:
    @app.post("/v1/search", **_gives(api.SearchAnswer, "search"))
    async def search(asked: api.SearchRequest, expand: Expand = None) -> Response:
        """Items that a text describes, best first, under filters."""
        if asked.k > service.config.max_k:
            raise Problem(422, "invalid", f"k: {asked.k}; at most {service.config.max_k}")
        service.check_length("deny", asked.deny)
        model = service.model()
        if not model.can_search:
            raise Problem(503, "search-off", "the run that is served has no text vectors")
        deny, _ = service.answers.split(asked.deny)
        found = await service.ask(partial(model.search, asked.query, asked.k, where=asked.where or None, deny=deny))
        answer = {"query": asked.query, "items": scored(found.pairs()), "reason": found.reasons[0]}
        return _json(service.expanded(answer | {"model_id": model.run_id}, expand))


def _add_health_routes(app: FastAPI, service: _Service) -> None:
    @app.get("/health/live", **_gives(api.LiveAnswer, "health"))
    async def health_live() -> Response:
        """The process answers."""
        return _json({"status": "live"})

    @app.get("/health/ready", **_gives(api.ReadyAnswer, "health"))
    async def health_ready() -> Response:
        """There is something to recommend with, and where there is a model, it has answered a live request."""
        info = None if service.store is None else await asyncio.to_thread(service.store.info)
        model = service.recommender
        if info is None and model is None:
            raise Problem(503, "not-ready", "no batch in the store, and live recommendations are off")
        await service.prove()
        matches = None if info is None or model is None else info.index_version == model.index_version
        lists = None if info is None else dataclasses.asdict(info)
        return _json({"status": "ready", "live": model is not None, "store": lists, "store_matches_model": matches})

    @app.get("/metrics", responses=_METRICS_RESPONSE, response_class=Response, tags=["health"])
    async def prometheus_metrics() -> Response:
        """For Prometheus."""
        info, store_up = None, service.store is not None
        if service.store is not None:
            try:
                info = await asyncio.to_thread(service.store.info)
            except StoreUnavailable:
                store_up = False
        waiting = 0 if service.batcher is None else service.batcher.waiting
        return service.metrics.page(info, waiting, store_up=store_up)


def _add_pages(app: FastAPI) -> None:
    """For people: what answers here, and the documentation, which loads nothing from elsewhere."""
    page = Path(__file__).with_name("docs.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        about = "genrec: top-K lists, similar items and search over HTTP"
        return _json({"about": about, "version": version("genrec"), "docs": "/docs", "openapi": "/openapi.json",
                      "ready": "/health/ready"})  # fmt: skip

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")


def _read_expand(request: Request) -> str | None:
    text = request.query_params.get("expand") if request.scope["query_string"] else None
    if text not in (None, "title"):
        raise Problem(422, "invalid", "query.expand: title, or nothing")
    return text


def _read_k(request: Request, most: int) -> int:
    text = request.query_params.get("k") if request.scope["query_string"] else None
    if text is None:
        return min(10, most)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise Problem(422, "invalid", f"query.k: a whole number from 1 to {most}")
    return int(text)


def _user_and_k(most: int) -> list[dict[str, Any]]:
    """The parameters of the busiest route, as OpenAPI has them."""
    user: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": api.LONGEST_USER}
    k = {"type": "integer", "minimum": 1, "maximum": most, "default": min(10, most)}
    return [
        {"name": "user_id", "in": "path", "required": True, "schema": user, "example": "A1YJEY40YUW4SE"},
        {"name": "k", "in": "query", "required": False, "schema": k, "description": "Number of items."},
        {"name": "expand", "in": "query", "required": False, "schema": {"enum": ["title"]}, "description": _EXPAND},
    ]


def _json(answer: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(answer), status, media_type="application/json")


def _gives(model: Any, tag: str, status: int = 200) -> dict[str, Any]:
    """What the OpenAPI document says of a route's answers; nothing is validated on the way out."""
    responses: dict[int | str, dict[str, Any]] = {status: {"model": model}, "default": _PROBLEM_RESPONSE}
    return {"responses": responses, "status_code": status, "response_class": Response, "tags": [tag]}


_PROBLEM_RESPONSE = {
    "description": "Any error, as RFC 9457 has it",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_METRICS_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
    "default": _PROBLEM_RESPONSE,
}


def _describe(app: FastAPI, *, keyed: bool) -> None:
    """Complete the OpenAPI document: the problem schema, and the key where the server asks for one."""
    original: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = api.ProblemDocument.model_json_schema()
        if keyed:
            parts["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    if not path.startswith("/health/"):
                        operation["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
