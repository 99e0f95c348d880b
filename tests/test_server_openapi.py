"""The whole OpenAPI document, fuzzed by schemathesis: whatever is asked, no server error and no undocumented answer."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import polars as pl
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from worlds.ring_recommender import RingRecommender, shop
from worlds.topk_batches import write_batch

from genrec.inference.serve.server import ServeConfig, create_app
from genrec.inference.store.lmdb_store import LmdbStore

OPERATIONS = [
    ("GET", "/v1/users/{user_id}/recommendations"),
    ("POST", "/v1/recommendations"),
    ("POST", "/v1/users/{user_id}/events"),
    ("POST", "/v1/search"),
    ("GET", "/v1/items/{item_id}/similar"),
    ("GET", "/v1/items/{item_id}"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    store = LmdbStore(folder / "store")
    histories = pl.DataFrame({"user_id": ["ann"], "item_ids": [["i0", "i1"]]})
    store.load(write_batch(folder / "topk", {"ann": [("i3", -1.0)], "bob": []}), histories=histories)
    app = create_app(RingRecommender(shop()), store, ServeConfig(run=Path("run"), rate=0, wait_ms=0))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{listening.getsockname()[1]}/openapi.json")
    server.should_exit = True
    thread.join()
    store.close()


def test_every_operation_is_fuzzed(schema):
    found = [result.ok() for result in schema.get_all_operations()]
    assert sorted((operation.method.upper(), operation.path) for operation in found) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    # Nothing can be wrong about a request that takes nothing.
    [(*one, mode) for one in OPERATIONS for mode in GenerationMode if mode.is_positive or "/v1/" in one[1]],
)
def test_every_answer_is_documented_and_none_is_a_server_error(schema, method, path, mode):
    operation = schema[path][method]
    # A filter on an attribute that the shop lacks fits the schema, and is refused all the same.
    excluded = [positive_data_acceptance] if path in ("/v1/recommendations", "/v1/search") else []

    @settings(
        max_examples=15,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(excluded_checks=excluded)

    check()
