"""`genrec serve`: opens a run and its store, and serves them over HTTP with one worker process or several.

Interactive documentation is at /docs, the OpenAPI document at /openapi.json. `GENREC_API_KEY` in the environment makes
every route but those and /health want that key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from genrec.inference.serve.app import create_app
from genrec.inference.serve.config import ServeConfig
from genrec.inference.serve.connections import ConnectionLimits, Connections
from genrec.inference.store.histories import histories_behind
from genrec.inference.store.opening import open_store
from genrec.inference.store.topk_store import StoreFull, StoreUnavailable
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import MANIFEST

if TYPE_CHECKING:
    from genrec.inference.recommender import Recommender

__all__ = ["ServeConfig", "create_app", "serve"]

API_KEY = "GENREC_API_KEY"
_CONFIG = "GENREC_SERVE_CONFIG"  # how worker processes get theirs


def serve(config: ServeConfig) -> None:
    """Serve until told to stop (SIGTERM, SIGINT), then finish what is under way; raises InputError where the run or the
    store cannot be opened, or an empty store not be filled.
    """
    _prepare(config)
    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "access_log": False,  # counted by /metrics; a line a request would be the slowest part of a look-up
        "server_header": False,
        "timeout_keep_alive": 75,  # longer than the 60 s of nginx, so that it is never the server that hangs up first
        "timeout_graceful_shutdown": config.drain,
        "http": Connections(
            ConnectionLimits(config.connections, body_bytes=config.max_body_bytes, seconds=config.timeout)
        ),
        "ws": "none",
    }
    if config.workers == 1:
        _run(uvicorn.Server(uvicorn.Config(_app(config), **options)))
        return
    with tempfile.TemporaryDirectory(prefix="genrec-metrics-") as folder:
        os.environ[_CONFIG] = json.dumps(dataclasses.asdict(config), default=str)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the workers' counters, added up by whichever is asked
        uvicorn.run("genrec.inference.serve.server:app_in_worker", factory=True, workers=config.workers, **options)


def _run(server: uvicorn.Server) -> None:
    """Run a server of one process, which a terminal that closes (SIGHUP) stops as SIGTERM does."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, lambda *_: setattr(server, "should_exit", True))
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(3)  # the port is in use, say; uvicorn has said so


def app_in_worker() -> FastAPI:
    """The application of one of several worker processes that `serve` starts."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # uvicorn's supervisor gets it too, and replaces the workers in turn
    settings = json.loads(os.environ[_CONFIG])
    try:
        return _app(ServeConfig(**settings | {"run": Path(settings["run"])}))
    except InputError as error:  # such as a Redis that went away since `_prepare`; uvicorn starts another worker
        raise SystemExit(f"genrec serve: {error}") from None


def _catalog(config: ServeConfig) -> Catalog:
    with Run.open(config.run, hashes=config.verify) as run:
        return run.catalog()


def _place(config: ServeConfig) -> str:
    return config.store or str(config.run / "store")


def _prepare(config: ServeConfig) -> None:
    """Check the run and the store once, before any worker starts; fill an empty store."""
    _catalog(config)
    _api_key()
    with contextlib.closing(open_store(_place(config), verify=config.verify)) as store:
        # Nothing serves yet, so a store that fails is a line for whoever starts it.
        try:
            lists = Run(config.run).topk
            if store.info() is None and (lists / MANIFEST).is_file():
                store.load(lists, histories=histories_behind(lists, config.run))
        except (StoreFull, StoreUnavailable) as error:
            raise InputError(f"the store: {error}") from error


def _api_key() -> str | None:
    """The key that clients must show; a space or a line break around it, as files end with, is no part of it."""
    value = os.environ.get(API_KEY, "")
    key = value.strip()
    if value and not (key and key.isprintable()):
        raise InputError(f"{API_KEY}: set, but blank or with control characters; unset it to let everybody in")
    return key or None


def _prove(recommender: Recommender, run: Path) -> None:
    """Refuse a run that opens and cannot answer, such as one that changed while it was read."""
    newest = recommender.catalog.item_ids[-1]
    try:
        recommender.recommend([[], [newest]], k=1)
        recommender.similar(newest, 1)
        if recommender.can_search:  # which loads the text encoder, and not at the first request
            recommender.search(recommender.catalog.titles[-1], 1)
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise InputError(
            f"{run}: opened, but it cannot recommend ({reason}); if it was changing meanwhile, start again"
        ) from error


def _app(config: ServeConfig) -> FastAPI:
    catalog, recommender = None, None
    if config.live:
        from genrec.inference.recommender import Recommender  # with it come torch and the engine

        recommender = Recommender.from_pretrained(
            config.run, engine=config.engine, device=config.device, retrieval=config.retrieval, verify=config.verify
        )
        _prove(recommender, config.run)
    else:
        catalog = _catalog(config)
    store = open_store(_place(config))
    app = create_app(recommender, store, config, catalog=catalog, api_key=_api_key())
    # What is loaded by now stays: out of the collector's sight it no longer stops requests for a tenth of a second.
    gc.collect()
    gc.freeze()
    return app
