"""The server's Prometheus metrics; with several workers, any of them answers for all (`PROMETHEUS_MULTIPROC_DIR`)."""

from __future__ import annotations

import os
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import Response

from genrec.inference.store.topk_store import ListsInfo

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServeMetrics:
    """Counts what the server does."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        newest = partial(Gauge, registry=registry, multiprocess_mode="mostrecent")
        self._requests = Counter(
            "genrec_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "genrec_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self._answers = Counter("genrec_answers", "Lists given", ["source", "stale"], registry=registry)
        self._batches = Histogram(
            "genrec_live_batch_size", "Live requests answered together", buckets=_SIZES, registry=registry
        )
        self._waiting = Gauge(
            "genrec_live_waiting", "Live requests in the queue", registry=registry, multiprocess_mode="livesum"
        )
        self._age = newest("genrec_lists_age_seconds", "Age of the stored lists")
        self._up = newest("genrec_store_up", "Whether the store answers")
        self._users = newest("genrec_lists_users", "Stored lists")
        self._info: ListsInfo | None = None

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; `status` 0 is a client that left."""
        self._requests.labels(route, method, status).inc()
        self._seconds.labels(route).observe(seconds)

    def answer(self, source: str, stale: bool) -> None:
        """Count a list by where it came from."""
        self._answers.labels(source, str(stale).lower()).inc()

    def batch(self, size: int) -> None:
        """Count a batch of live requests."""
        self._batches.observe(size)

    def page(self, info: ListsInfo | None, waiting: int, *, store_up: bool) -> Response:
        """The page that Prometheus reads; where the store does not answer, with what it said last."""
        self._waiting.set(waiting)
        self._up.set(store_up)
        info = self._info = info if store_up else self._info
        self._age.set(float("nan") if info is None else info.age)
        self._users.set(0 if info is None else info.users)
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
