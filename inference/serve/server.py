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
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from genrec.inference.serve.app import create_app
from genrec.inference.serve.config import ServeConfig
from genrec.inference.store.histories import histories_behind
from genrec.inference.store.opening import open_store
from genrec.inference.store.topk_store import StoreFull, StoreUnavailable
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import MANIFEST, read_json

__all__ = ["ServeConfig", "create_app", "serve"]

API_KEY = "GENREC_API_KEY"
_CONFIG = "GENREC_SERVE_CONFIG"  # how worker processes get theirs


def serve(config: ServeConfig) -> None:
    """Serve until told to stop (SIGTERM, SIGINT), then finish what is under way.

    Raises:
        InputError: the run or the store cannot be opened, or an empty store not be filled.
    """
    _prepare(config)
    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "access_log": False,  # counted by /metrics; a line a request would be the slowest part of a look-up
        "server_header": False,
        "timeout_keep_alive": 75,  # longer than the 60 s of nginx, so that it is never the server that hangs up first
        "timeout_graceful_shutdown": config.drain,
    }
    if config.workers == 1:
        uvicorn.run(_app(config), **options)
        return
    with tempfile.TemporaryDirectory(prefix="genrec-metrics-") as folder:
        os.environ[_CONFIG] = json.dumps(dataclasses.asdict(config), default=str)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the workers' counters, added up by whichever is asked
        uvicorn.run("genrec.inference.serve.server:app_in_worker", factory=True, workers=config.workers, **options)


def app_in_worker() -> FastAPI:
    """The application of one of several worker processes that `serve` starts."""
    settings = json.loads(os.environ[_CONFIG])
    try:
        return _app(ServeConfig(**settings | {"run": Path(settings["run"])}))
    except InputError as error:  # such as a Redis that went away since `_prepare`; uvicorn starts another worker
        raise SystemExit(f"genrec serve: {error}") from None


def _place(config: ServeConfig) -> str:
    return config.store or str(config.run / "store")


def _prepare(config: ServeConfig) -> None:
    """Check the run and the store once, before any worker starts; fill an empty store."""
    Catalog.load(config.run / "catalog")
    with contextlib.closing(open_store(_place(config), verify=True)) as store:
        # Nothing serves yet, so a store that fails is a line for whoever starts it.
        try:
            if store.info() is None and (config.run / "topk" / MANIFEST).is_file():
                store.load(config.run / "topk", histories=histories_behind(config.run / "topk", config.run))
        except (StoreFull, StoreUnavailable) as error:
            raise InputError(f"the store: {error}") from error


def _app(config: ServeConfig) -> FastAPI:
    catalog, recommender, exclude_seen = None, None, True
    if config.live:
        from genrec.inference.recommender import Recommender  # with it come torch and the engine

        recommender = Recommender.from_pretrained(config.run, engine=config.engine, device=config.device)
        data = config.run / "split" / "data.json"  # a run that was copied for serving alone may come without
        exclude_seen = bool(read_json(data)["exclude_seen"]) if data.is_file() else True
    else:
        catalog = Catalog.load(config.run / "catalog")
    key = os.environ.get(API_KEY) or None
    store = open_store(_place(config))
    app = create_app(recommender, store, config, catalog=catalog, exclude_seen=exclude_seen, api_key=key)
    # What is loaded by now stays: out of the collector's sight it no longer stops requests for a tenth of a second.
    gc.collect()
    gc.freeze()
    return app
