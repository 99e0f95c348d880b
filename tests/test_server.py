from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest
import uvicorn
from fastapi.testclient import TestClient
from worlds.ring_recommender import RingRecommender, shop
from worlds.sealed import seal_catalog
from worlds.topk_batches import write_batch

from genrec.cli.main import main as genrec_main
from genrec.inference.batch.config import RecommendConfig
from genrec.inference.serve.guard import Guard, RateLimit
from genrec.inference.serve.server import ServeConfig, _api_key, _app, app_in_worker, create_app
from genrec.inference.store.lmdb_store import LmdbStore
from genrec.inference.store.topk_store import StoreUnavailable
from genrec.semtok.errors import InputError

CONFIG = ServeConfig(run=Path("run"), timeout=5.0, rate=0)
LISTS = {
    "ann": [("i3", -0.125), ("i5", -0.5), ("i7", -1.0)],
    "a/b c?ü☃": [("i1", -1.0)],
    "a\nb\r\n": [("i1", -1.0)],
    "x" * 600: [("i2", -1.0)],
    "gone": [("left-the-shop", -0.5), ("i2", -1.0)],
}


@pytest.fixture
def ring():
    return RingRecommender(shop())


@pytest.fixture
def store(tmp_path):
    opened = LmdbStore(tmp_path / "store")
    histories = pl.DataFrame({"user_id": ["ann", "cleo"], "item_ids": [["i0", "i1"], ["i8", "i9"]]})
    opened.load(write_batch(tmp_path / "topk", LISTS), as_of=time.time() - 3600, histories=histories)
    yield opened
    opened.close()


@pytest.fixture
def client(ring, store):
    with TestClient(create_app(ring, store, CONFIG)) as opened:
        yield opened


def ids(answer):
    return [item["item_id"] for item in answer.json()["items"]]


def is_problem(answer, status, kind):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (document["status"], document["type"]) == (status, f"urn:genrec:{kind}")
    assert document["title"]
    assert document["detail"]
    assert document["instance"].startswith("/")
    return document


class TestStored:
    def test_a_stored_list_with_its_version_age_and_model(self, client, ring):
        answer = client.get("/v1/users/ann/recommendations?k=2").json()
        assert answer["items"] == [{"item_id": "i3", "score": -0.125}, {"item_id": "i5", "score": -0.5}]
        assert 3600 <= answer.pop("age_seconds") < 3700
        del answer["items"]
        assert answer == {
            "user_id": "ann",
            "source": "store",
            "stale": False,
            "version": "v000001",
            "model_id": "run-a",
            "index_version": "ix",
        }
        assert not ring.batches

    @pytest.mark.parametrize("user", ["a/b c?ü☃", "a\nb\r\n", "x" * 600])
    def test_any_id_can_be_asked_for(self, client, user):
        answer = client.get(f"/v1/users/{quote(user, safe='')}/recommendations")
        assert answer.json()["user_id"] == user
        assert answer.json()["source"] == "store"

    def test_the_next_batch_is_seen_at_once(self, client, store, tmp_path):
        store.load(write_batch(tmp_path / "b", {"ann": [("i9", -1.0)]}, run_id="run-b"))
        answer = client.get("/v1/users/ann/recommendations")
        assert (ids(answer), answer.json()["version"], answer.json()["model_id"]) == (["i9"], "v000002", "run-b")

    def test_items_withdrawn_since_are_left_out(self, store):
        catalog = dataclasses.replace(shop(), withdrawn=np.array([item == "i5" for item in shop().item_ids]))
        with TestClient(create_app(RingRecommender(catalog), store, CONFIG)) as client:
            assert ids(client.get("/v1/users/ann/recommendations?k=2")) == ["i3", "i7"]


class TestLive:
    def test_an_unknown_user_gets_the_list_of_anonymous_users_which_is_worked_out_once(self, client, ring):
        for user in ("bob", "dan", "\x00"):
            answer = client.get(f"/v1/users/{quote(user)}/recommendations?k=3")
            assert ids(answer) == ["i0", "i1", "i2"]
            assert (answer.json()["source"], answer.json()["history_length"]) == ("live", 0)
        assert len(ring.batches) == 1

    def test_a_user_with_a_history_but_no_list_is_answered_live(self, client):
        assert ids(client.get("/v1/users/cleo/recommendations?k=3")) == ["i10", "i11", "i0"]

    def test_events_make_the_next_answer_live(self, client):
        posted = client.post("/v1/users/ann/events", json={"item_ids": ["i4", "unheard-of"]})
        assert posted.status_code == 202
        assert posted.json() == {"user_id": "ann", "accepted": 1, "unknown_items": ["unheard-of"]}
        answer = client.get("/v1/users/ann/recommendations?k=3").json()
        assert [item["item_id"] for item in answer["items"]] == ["i5", "i6", "i7"]
        assert (answer["source"], answer["history_length"], answer["version"]) == ("live", 3, None)
        assert (answer["model_id"], answer["index_version"]) == ("ring", "ix")

    def test_a_run_that_recommends_again_what_was_seen_does_so_live_too(self, ring, tmp_path, monkeypatch):
        ring.filter_viewed = False
        monkeypatch.setattr("genrec.inference.recommender.Recommender.from_pretrained", lambda *_, **__: ring)
        with TestClient(_app(dataclasses.replace(CONFIG, run=tmp_path))) as client:
            client.post("/v1/users/ann/events", json={"item_ids": ["i4", "i5"]})
            assert "i4" in ids(client.get("/v1/users/ann/recommendations?k=12"))
            before = len(ring.batches)
            for _ in range(2):
                client.get("/v1/users/unknown/recommendations")
            assert len(ring.batches) == before + 1

    def test_events_of_unknown_items_only_change_nothing(self, client):
        assert client.post("/v1/users/ann/events", json={"item_ids": ["unheard-of"]}).json()["accepted"] == 0
        assert client.get("/v1/users/ann/recommendations").json()["source"] == "store"

    def test_a_later_batch_makes_the_stored_list_fresh(self, client, store, tmp_path):
        client.post("/v1/users/ann/events", json={"item_ids": ["i4"]})
        store.load(write_batch(tmp_path / "b", {"ann": [("i9", -1.0)]}), as_of=time.time() + 1)
        assert client.get("/v1/users/ann/recommendations").json()["source"] == "store"

    def test_a_given_history_with_filters_and_denied_items(self, client):
        asked = {
            "history": ["i1", "unheard-of"],
            "k": 3,
            "where": {"price": {"min": 4, "max": 9}, "colour": ["red"], "tags": "sale"},
            "deny": ["i6", "never-sold"],
        }
        answer = client.post("/v1/recommendations", json=asked)
        assert ids(answer) == ["i4", "i8"]
        assert answer.json()["unknown_items"] == ["unheard-of", "never-sold"]
        assert answer.json()["reason"] == "2 items are allowed"
        assert answer.json()["user_id"] is None

    @pytest.mark.parametrize(
        "condition",
        [
            '{"price": [null, 4]}', '{"price": [4, null]}', '{"price": [4, 9]}', '{"price": {"max": 4}}',
            '{"price": {"min": null, "max": 4}}', '{"price": {"max": null}}', '{"price": [null, null]}',
            '{"price": [3]}', '{"price": [2, 5, 7]}', '{"price": 3}', '{"colour": ["red"]}', '{"tags": ["new"]}',
            '{"price": {}}', '{"price": []}', '{"price": [null]}', '{"price": [null, 4, 5]}', '{"price": [9, 4]}',
            '{"price": [true, false]}', '{"colour": [null, "red"]}', '{"colour": []}', '{"tags": {"max": 1}}',
        ],
    )  # fmt: skip
    def test_a_condition_means_what_it_means_in_python_and_on_the_command_line(self, client, ring, condition):
        told = RecommendConfig(run=Path("run"), where=condition).conditions()
        assert told == json.loads(condition)
        answer = client.post("/v1/recommendations", json={"history": [], "k": 12, "where": told})
        try:
            (rows,) = ring.recommend([[]], k=12, where=told).rows
        except InputError:
            assert answer.status_code == 422
        else:
            assert ids(answer) == [ring.catalog.item_ids[row] for row in rows.tolist()]

    def test_seen_items_may_come_back_where_asked_for(self, client):
        asked = {"history": ["i0", "i11"], "k": 2}
        assert ids(client.post("/v1/recommendations", json=asked)) == ["i1", "i2"]
        assert ids(client.post("/v1/recommendations", json=asked | {"exclude_seen": False})) == ["i0", "i1"]

    def test_a_users_known_history_is_used_where_none_is_given(self, client):
        answer = client.post("/v1/recommendations", json={"user_id": "ann", "k": 1, "where": {"colour": "blue"}})
        assert ids(answer) == ["i3"]
        assert answer.json()["history_length"] == 2
        assert ids(client.post("/v1/recommendations", json={"user_id": "ann", "history": ["i8"], "k": 1})) == ["i9"]

    def test_requests_that_come_together_share_a_batch(self, ring, store):
        config = dataclasses.replace(CONFIG, wait_ms=300)
        with TestClient(create_app(ring, store, config)) as client:
            answers = {}
            threads = [
                threading.Thread(
                    target=lambda n=n: answers.update(
                        {n: ids(client.post("/v1/recommendations", json={"history": [f"i{n}"], "k": 1}))}
                    )
                )
                for n in range(6)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert answers == {n: [f"i{n + 1}"] for n in range(6)}
        assert len(ring.batches) < 6


class TestTrouble:
    def test_a_stale_list_is_better_than_none(self, ring, store):
        with TestClient(create_app(ring, store, dataclasses.replace(CONFIG, timeout=0.05))) as client:
            client.post("/v1/users/ann/events", json={"item_ids": ["i4"]})
            ring.gate.clear()
            answer = client.get("/v1/users/ann/recommendations")
            assert (answer.json()["source"], answer.json()["stale"], ids(answer)[0]) == ("store", True, "i3")
            is_problem(client.get("/v1/users/bob/recommendations"), 504, "timeout")
            is_problem(client.post("/v1/recommendations", json={"history": ["i1"]}), 504, "timeout")
            ring.gate.set()
            # requests given up above are cleared first, for which a busy machine may take longer than the timeout
            answers = (client.get("/v1/users/ann/recommendations?k=1") for _ in range(200))
            assert ids(next(answer for answer in answers if not answer.json()["stale"])) == ["i5"]

    def test_a_full_queue_says_when_to_come_back(self, ring, store):
        with TestClient(create_app(ring, store, dataclasses.replace(CONFIG, queue=1, batch=1))) as client:
            ring.gate.clear()
            asked = {"history": ["i1"], "k": 1}
            done = []
            threads = [
                threading.Thread(target=lambda: done.append(client.post("/v1/recommendations", json=asked)))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            while len(done) < 2:
                time.sleep(0.01)
            ring.gate.set()
            for thread in threads:
                thread.join()
            refused = [answer for answer in done if answer.status_code != 200]
            assert len(refused) == 2
            for answer in refused:
                is_problem(answer, 503, "overloaded")
                assert answer.headers["retry-after"] == "1"

    def test_without_a_model_stored_lists_are_served_stale_or_not(self, store):
        with TestClient(create_app(None, store, CONFIG, catalog=shop())) as client:
            client.post("/v1/users/ann/events", json={"item_ids": ["i4"]})
            answer = client.get("/v1/users/ann/recommendations").json()
            assert (answer["source"], answer["stale"]) == ("store", True)
            is_problem(client.get("/v1/users/bob/recommendations"), 404, "unknown-user")
            is_problem(client.post("/v1/recommendations", json={}), 503, "live-off")
            is_problem(client.get("/v1/items/i1/similar"), 503, "live-off")
            assert client.get("/v1/items/i1").json()["semantic_id"] is None
            assert client.get("/health/ready").json()["live"] is False

    def test_without_a_store_everybody_is_answered_live(self, ring):
        with TestClient(create_app(ring, None, CONFIG)) as client:
            assert client.get("/v1/users/ann/recommendations").json()["source"] == "live"
            is_problem(client.post("/v1/users/ann/events", json={"item_ids": ["i1"]}), 503, "no-store")
            assert client.get("/health/ready").json()["store"] is None

    def test_an_unforeseen_error_is_a_500_without_its_text(self, ring, store, caplog):
        ring.similar = None
        with TestClient(create_app(ring, store, CONFIG)) as client:
            document = is_problem(client.get("/v1/items/i1/similar"), 500, "internal")
            assert "NoneType" not in json.dumps(document)
        assert "NoneType" in caplog.text

    def test_a_full_event_log_is_a_503(self, ring, tmp_path):
        small = LmdbStore(tmp_path / "small", events_bytes=128 << 10)
        with TestClient(create_app(ring, small, CONFIG)) as client:
            answers = [client.post(f"/v1/users/{n}/events", json={"item_ids": ["i1"] * 150}) for n in range(60)]
        assert {answer.status_code for answer in answers} == {202, 503}
        is_problem(answers[-1], 503, "events-full")
        small.close()


class TestConnections:
    def test_a_body_that_dribbles_in_is_given_up(self):
        sent, seen = self.guarded([{"type": "http.request", "body": b"{", "more_body": True}, None])
        assert (sent[0]["status"], seen) == (408, [("unmatched", "POST", 408)])
        assert json.loads(sent[1]["body"])["type"] == "urn:genrec:slow-body"

    def test_a_client_that_leaves_is_not_answered(self):
        sent, seen = self.guarded(
            [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        )
        assert (sent, seen) == ([], [("unmatched", "POST", 0)])

    def guarded(self, messages):
        """What a guard before an application that must not be reached sends and counts; None is silence."""
        sent, seen = [], []

        async def application(scope, receive, send):
            raise AssertionError("reached")

        async def receive():
            message = messages.pop(0)
            return message if message is not None else await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        guard = Guard(
            application,
            api_key=None,
            limit=RateLimit(0, 1),
            body_bytes=100,
            body_seconds=0.05,
            observe=lambda route, method, status, seconds: seen.append((route, method, status)),
        )
        scope = {"type": "http", "method": "POST", "path": "/v1/recommendations", "headers": [], "client": None}
        asyncio.run(guard(scope, receive, send))
        return sent, seen

    def test_what_is_under_way_is_answered_before_the_server_goes(self, ring, store):
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(ring, store, CONFIG), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        ask(port, "/health/live", key="")
        ring.gate.clear()
        answers = []
        asking = threading.Thread(target=lambda: answers.append(ask(port, "/v1/users/bob/recommendations?k=1", key="")))
        asking.start()
        while not ring.batches:
            time.sleep(0.01)
        server.should_exit = True
        while is_listening(port):
            time.sleep(0.01)
        assert not answers
        ring.gate.set()
        asking.join()
        thread.join()
        assert answers[0]["items"] == [{"item_id": "i0", "score": -1.0}]


class TestItems:
    def test_an_item(self, client):
        assert client.get("/v1/items/i5").json() == {
            "item_id": "i5",
            "title": "Item 5",
            "attributes": {"price": 5.0, "colour": "blue", "tags": ["old", "sale"]},
            "withdrawn": False,
            "semantic_id": [1, 1],
        }

    def test_any_id_can_be_asked_about(self, store):
        ids = ["a\nb", "\n", "c/d?", "thing", "thing/similar", *(f"i{n}" for n in range(5, 12))]
        odd = dataclasses.replace(shop(), item_ids=tuple(ids))
        with TestClient(create_app(RingRecommender(odd), store, CONFIG)) as client:
            for item_id in ids:
                path = f"/v1/items/{quote(item_id, safe='')}"
                assert client.get(path).json()["item_id"] == item_id
                assert client.get(f"{path}/similar").json()["item_id"] == item_id

    def test_similar_items(self, client):
        answer = client.get("/v1/items/i5/similar?k=2")
        assert answer.json()["items"] == [{"item_id": "i4", "score": -1.0}, {"item_id": "i6", "score": -1.0}]

    def test_an_unknown_item(self, client):
        assert "'i99'" in is_problem(client.get("/v1/items/i99"), 404, "unknown-item")["detail"]
        is_problem(client.get("/v1/items/i99/similar"), 404, "unknown-item")

    def test_a_catalogue_without_attributes(self, store):
        plain = dataclasses.replace(shop(), attributes=pl.DataFrame())
        with TestClient(create_app(RingRecommender(plain), store, CONFIG)) as client:
            assert client.get("/v1/items/i5").json()["attributes"] == {}


class TestBadRequests:
    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({"k": 0}, "body.k"),
            ({"k": 101}, "k: 101"),
            ({"k": "10"}, "body.k"),
            ({"k": 10**30}, "k"),
            ({"history": "i1"}, "body.history"),
            ({"history": [""]}, "body.history.0"),
            ({"history": ["i1"] * 201}, "history: 201 items"),
            ({"deny": ["i1"] * 201}, "deny: 201 items"),
            ({"histories": []}, "body.histories"),
            ({"ranking": "best"}, "body.ranking"),
            ({"where": {"size": 1}}, "no attribute 'size'"),
            ({"where": {"price": "cheap"}}, "price holds numbers"),
            ({"where": {"colour": 3}}, "colour holds text"),
            ({"where": {"colour": "Red"}}, "no item has colour 'Red'; did you mean 'red'?"),
            ({"where": {"colour": {"min": 1}}}, "colour"),
            ({"where": {"price": {"low": 1}}}, "low"),
            ({"where": {"price": 10**400}}, "price"),
            ({"where": {"price": None}}, "price"),
            ({"user_id": ""}, "body.user_id"),
            ([], "body"),
            (None, "body"),
        ],
    )
    def test_a_bad_body_is_named(self, client, ring, body, named):
        assert named in is_problem(client.post("/v1/recommendations", json=body), 422, "invalid")["detail"]
        assert client.get("/health/live").status_code == 200

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({"where": {"colour": "\ud800"}}, "body.where.colour"),
            ({"where": {"colour": ["red", "\ud800"]}}, "body.where.colour"),
            ({"where": {"\ud800": None}}, "body.where"),
            ({"where": {"\ud800": "red"}}, "body.where"),
            ({"\ud800": 1}, "body"),
            ({"user_id": "\ud800"}, "body.user_id"),
            ({"deny": ["\ud800"]}, "body.deny.0"),
        ],
    )
    def test_half_a_character_is_refused(self, client, body, named):
        """JSON may escape half of a pair; UTF-8 has no such thing."""
        asked = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        assert named in is_problem(client.post("/v1/recommendations", **asked), 422, "invalid")["detail"]

    @pytest.mark.parametrize("text", ["{", "[" * 50_000, '{"k": NaN}', '{"where": {"price": Infinity}}', "\xff", ""])
    def test_what_is_not_json_is_refused(self, client, text):
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/recommendations", content=text.encode("latin-1"), headers=headers)
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize("k", ["0", "101", "ten", "1e2", "-1", "9" * 5000])
    def test_a_bad_k_is_named(self, client, k):
        assert "query.k" in is_problem(client.get(f"/v1/users/ann/recommendations?k={k}"), 422, "invalid")["detail"]

    def test_paths_and_methods_that_are_not_there(self, client):
        is_problem(client.get("/v2/users"), 404, "unknown-path")
        is_problem(client.get("/v1/users/ann/recommendations/"), 404, "unknown-path")
        answer = client.delete("/v1/users/ann/recommendations")
        is_problem(answer, 405, "wrong-method")
        assert answer.headers["allow"] == "GET"

    @pytest.mark.parametrize("name", ["%ff", "a%ed%a0%80", "%c0%af", "ann%80"])
    def test_an_id_that_is_no_text_is_refused(self, client, name):
        """Decoded as it could be, all of these would be one user."""
        is_problem(client.get(f"/v1/users/{name}/recommendations"), 400, "bad-request")
        is_problem(client.post(f"/v1/users/{name}/events", json={"item_ids": ["i1"]}), 400, "bad-request")
        is_problem(client.get(f"/v1/items/{name}"), 400, "bad-request")

    def test_an_id_that_is_too_long(self, client):
        is_problem(client.get(f"/v1/users/{'x' * 3000}/recommendations"), 422, "invalid")

    def test_events_without_items(self, client):
        is_problem(client.post("/v1/users/ann/events", json={"item_ids": []}), 422, "invalid")
        is_problem(client.post("/v1/users/ann/events", json={"item_ids": ["i1"] * 201}), 422, "invalid")

    def test_a_body_that_is_too_large(self, client):
        asked = {"history": ["x" * 500] * 150}
        is_problem(client.post("/v1/recommendations", json=asked), 413, "body-too-large")
        chunks = (b" " * 1000 for _ in range(100))  # without a Content-Length
        is_problem(client.post("/v1/recommendations", content=chunks), 413, "body-too-large")


class TestKeyAndRate:
    @pytest.fixture
    def keyed(self, ring, store):
        with TestClient(create_app(ring, store, CONFIG, api_key="s3cret-ü")) as opened:
            yield opened

    @pytest.mark.parametrize("headers", [{}, {"X-API-Key": "other"}, {"Authorization": "Basic s3cret"}])
    def test_without_the_key_nothing_but_health_is_told(self, keyed, headers):
        for path in ("/v1/users/ann/recommendations", "/v1/items/i1", "/metrics", "/nowhere"):
            answer = keyed.get(path, headers=headers)
            is_problem(answer, 401, "no-key")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert keyed.get("/health/ready", headers=headers).status_code == 200
        assert keyed.get("/openapi.json").json()["components"]["securitySchemes"]

    @pytest.mark.parametrize(("name", "opening"), [("X-API-Key", ""), ("Authorization", "Bearer ")])
    def test_with_the_key(self, keyed, name, opening):
        headers = {name: (opening + "s3cret-ü").encode()}
        assert keyed.get("/v1/users/ann/recommendations", headers=headers).status_code == 200

    @pytest.mark.parametrize("headers", [{"X-API-Key": " s3cret-ü "}, {"Authorization": "bearer  s3cret-ü "}])
    def test_spaces_around_the_key_are_no_part_of_it(self, keyed, headers, monkeypatch):
        encoded = {name: value.encode() for name, value in headers.items()}
        assert keyed.get("/v1/users/ann/recommendations", headers=encoded).status_code == 200
        monkeypatch.setenv("GENREC_API_KEY", "s3cret \n")  # as a file ends
        assert _api_key() == "s3cret"

    def test_a_blank_key_lets_nobody_in_by_mistake(self, monkeypatch):
        monkeypatch.setenv("GENREC_API_KEY", "")
        assert _api_key() is None
        for blank in (" ", "\n", "a\nb"):
            monkeypatch.setenv("GENREC_API_KEY", blank)
            with pytest.raises(InputError, match="GENREC_API_KEY: set, but blank"):
                _api_key()

    def test_a_client_that_asks_too_often(self, ring, store):
        with TestClient(create_app(ring, store, dataclasses.replace(CONFIG, rate=0.01))) as client:
            assert client.get("/v1/items/i1").status_code == 200
            answer = client.get("/v1/items/i1")
            is_problem(answer, 429, "rate-limited")
            assert 90 <= int(answer.headers["retry-after"]) <= 100
            assert client.get("/health/live").status_code == 200

    def test_the_bucket_refills_and_clients_are_apart(self):
        limit = RateLimit(2.0, burst=3.0)
        assert [limit.wait("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
        assert limit.wait("b", 0.0) == 0
        assert limit.wait("a", 0.25) == 0.25
        assert limit.wait("a", 0.5) == 0
        assert [limit.wait("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]

    def test_buckets_are_bounded(self):
        limit = RateLimit(1.0, burst=1.0, clients=2)
        for client in ("a", "b", "c"):
            limit.wait(client, 0.0)
        assert limit.wait("a", 0.0) == 0  # forgotten, the one unused longest
        assert limit.wait("c", 0.0) > 0


class TestHealth:
    def test_ready_tells_what_is_served(self, client):
        answer = client.get("/health/ready").json()
        assert (answer["status"], answer["live"], answer["store_matches_model"]) == ("ready", True, True)
        assert answer["store"]["version"] == "v000001"

    def test_nothing_to_serve_is_not_ready_but_alive(self, tmp_path):
        empty = LmdbStore(tmp_path / "empty")
        with TestClient(create_app(None, empty, CONFIG, catalog=shop())) as client:
            is_problem(client.get("/health/ready"), 503, "not-ready")
            assert client.get("/health/live").json() == {"status": "live"}
        empty.close()

    def test_ready_only_once_the_model_has_answered(self, ring, store, caplog):
        """And no longer, once it has failed at something that is not the request's fault, until it answers again."""
        right = ring.recommend

        def broken(*args, **options):
            raise IndexError("index 60 is out of bounds for axis 0 with size 58")

        with TestClient(create_app(ring, store, CONFIG), raise_server_exceptions=False) as client:
            ring.recommend = broken
            for _ in range(2):
                assert "log says why" in is_problem(client.get("/health/ready"), 503, "not-ready")["detail"]
            assert "out of bounds" in caplog.text
            ring.recommend = right
            assert client.get("/health/ready").status_code == 200
            asked = len(ring.batches)
            assert client.get("/health/ready").status_code == 200
            assert len(ring.batches) == asked
            assert client.post("/v1/recommendations", json={"where": {"size": 1}}).status_code == 422
            assert client.get("/health/ready").status_code == 200
            assert len(ring.batches) == asked + 1  # the request's own
            ring.recommend = broken
            is_problem(client.post("/v1/recommendations", json={"history": ["i1"]}), 500, "internal")
            is_problem(client.get("/health/ready"), 503, "not-ready")

    def test_a_run_that_opens_and_cannot_recommend_is_one_line(self, ring, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("genrec.inference.recommender.Recommender.from_pretrained", lambda *_, **__: ring)
        monkeypatch.setattr(ring, "similar", lambda item_id, k: [][60])
        (tmp_path / "config.yaml").write_text("")
        seal_catalog(tmp_path, shop())
        assert genrec_main(["serve", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"genrec serve: {tmp_path}: opened, but it cannot recommend (IndexError: ")

    def test_metrics_answer_while_the_store_does_not(self, client, store, monkeypatch):
        assert "genrec_store_up 1.0" in client.get("/metrics").text

        def down():
            raise StoreUnavailable("gone")

        monkeypatch.setattr(store, "info", down)
        page = client.get("/metrics").text
        assert "genrec_store_up 0.0" in page
        assert "genrec_lists_users 5.0" in page
        assert float(page.split("\ngenrec_lists_age_seconds ")[1].split()[0]) >= 3600
        is_problem(client.get("/health/ready"), 503, "store-down")

    def test_metrics_count_requests_answers_and_batches(self, client):
        client.get("/v1/users/ann/recommendations")
        client.get("/v1/users/bob/recommendations")
        client.get("/v1/items/nope")
        page = client.get("/metrics").text
        route = "/v1/users/{user_id}/recommendations"
        assert f'genrec_requests_total{{method="GET",route="{route}",status="200"}} 2.0' in page
        assert 'genrec_requests_total{method="GET",route="/v1/items/{item_id}",status="404"} 1.0' in page
        assert 'genrec_answers_total{source="store",stale="false"} 1.0' in page
        assert 'genrec_answers_total{source="live",stale="false"} 1.0' in page
        assert "genrec_live_batch_size_count 1.0" in page
        assert "genrec_lists_users 5.0" in page
        assert float(page.split("\ngenrec_lists_age_seconds ")[1].split()[0]) >= 3600


class TestConfig:
    @pytest.mark.parametrize(
        "wrong",
        [{"workers": 0}, {"port": 70000}, {"rate": -1.0}, {"timeout": 0.0}, {"max_k": 0}, {"port": 0, "workers": 2}],
    )
    def test_a_bad_value_names_its_flag(self, wrong):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))} "):
            ServeConfig(run=Path("run"), **wrong)

    def test_the_application_wants_a_catalogue(self, store):
        with pytest.raises(ValueError, match="catalogue"):
            create_app(None, store, CONFIG)


SERVE = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from genrec.inference.serve.server import ServeConfig, serve
serve(ServeConfig(run=Path(sys.argv[1]), port=int(sys.argv[2]), workers=int(sys.argv[3]), live=False, drain=5))
"""


@pytest.mark.parametrize(
    ("workers", "stop"),
    [(1, signal.SIGTERM), (1, signal.SIGHUP), pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_a_run_is_served_and_stops_gracefully(tmp_path, workers, stop):
    seal_catalog(tmp_path, shop())
    write_batch(tmp_path / "topk", LISTS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(tmp_path), str(port), str(workers)]
    environment = os.environ | {"GENREC_API_KEY": "key"}
    server = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment, stderr=subprocess.PIPE)
    try:
        answer = ask(port, "/v1/users/ann/recommendations", key="key")
        assert [item["item_id"] for item in answer["items"]] == ["i3", "i5", "i7"]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(port, "/v1/users/ann/recommendations", key="wrong")
        store = LmdbStore(tmp_path / "store")  # another process loads the next batch
        store.load(write_batch(tmp_path / "next", {"ann": [("i9", -1.0)]}))
        store.close()
        for _ in range(10):
            assert ask(port, "/v1/users/ann/recommendations", key="key")["version"] == "v000002"
        assert np.isclose(metric(port, 'genrec_answers_total{source="store",stale="false"}'), 11)
    finally:
        server.send_signal(stop)
        errors = server.communicate(timeout=30)[1].decode()
    assert server.returncode in (0, -signal.SIGTERM), errors
    assert "Traceback" not in errors


def test_a_worker_whose_store_went_away_ends_with_one_line(tmp_path, monkeypatch):
    seal_catalog(tmp_path, shop())
    gone = ServeConfig(run=tmp_path, store="redis://127.0.0.1:1/0", live=False)
    monkeypatch.setenv("GENREC_SERVE_CONFIG", json.dumps(dataclasses.asdict(gone), default=str))
    with pytest.raises(SystemExit, match=r"genrec serve: redis://.* cannot reach Redis"):
        app_in_worker()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, path: str, key: str):
    for _ in range(300):
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"X-API-Key": key})
            with urllib.request.urlopen(request, timeout=10) as answer:
                body = answer.read()
            return json.loads(body) if body[:1] == b"{" else body.decode()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def metric(port: int, name: str) -> float:
    return float(ask(port, "/metrics", key="key").split(name)[1].split()[0])


class TestPeople:
    """What somebody asks who is no program: titles, search in words, and pages."""

    def test_titles_where_they_are_asked_for(self, client):
        answer = client.get("/v1/users/ann/recommendations?k=2&expand=title").json()
        assert [(item["item_id"], item["title"]) for item in answer["items"]] == [("i3", "Item 3"), ("i5", "Item 5")]
        gone = client.get("/v1/users/gone/recommendations?expand=title").json()
        assert [item["title"] for item in gone["items"]] == [None, "Item 2"]
        live = client.post("/v1/recommendations?expand=title", json={"history": ["i3"], "k": 1}).json()
        assert live["items"] == [{"item_id": "i4", "score": -1.0, "title": "Item 4"}]
        assert client.get("/v1/items/i3/similar?k=1&expand=title").json()["items"][0]["title"] == "Item 2"
        again = client.post("/v1/recommendations", json={"history": ["i3"], "k": 1}).json()
        assert again["items"] == [{"item_id": "i4", "score": -1.0}]
        for path in ("/v1/users/ann/recommendations", "/v1/items/i3/similar"):
            is_problem(client.get(f"{path}?expand=brand"), 422, "invalid")

    def test_search(self, client, ring):
        found = client.post("/v1/search?expand=title", json={"query": "1", "k": 3})
        assert found.json() == {
            "query": "1",
            "items": [
                {"item_id": "i1", "score": -0.0, "title": "Item 1"},
                {"item_id": "i11", "score": -1.0, "title": "Item 11"},
            ],
            "reason": "2 items were found",
            "model_id": "ring",
        }
        asked = {"query": "1", "k": 1, "where": {"price": {"min": 5}}}
        assert ids(client.post("/v1/search", json=asked)) == ["i11"]
        assert ids(client.post("/v1/search", json={"query": "1", "k": 1, "deny": ["i1", "unheard-of"]})) == ["i11"]
        is_problem(client.post("/v1/search", json={"query": "1", "where": {"smell": "x"}}), 422, "invalid")
        is_problem(client.post("/v1/search", json={"query": "1", "k": 10_000}), 422, "invalid")
        is_problem(client.post("/v1/search", json={"query": ""}), 422, "invalid")
        ring.can_search = False
        is_problem(client.post("/v1/search", json={"query": "1"}), 503, "search-off")

    def test_no_more_searches_wait_than_may(self, ring, store):
        entered = threading.Event()

        def slow(*_, **__):
            entered.set()
            assert ring.gate.wait(timeout=30)
            raise InputError("not asked")

        ring.search = slow
        ring.gate.clear()
        with (
            TestClient(create_app(ring, store, dataclasses.replace(CONFIG, queue=1))) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            first = pool.submit(client.post, "/v1/search", json={"query": "1"})
            assert entered.wait(timeout=30)
            is_problem(client.post("/v1/search", json={"query": "1"}), 503, "overloaded")
            ring.gate.set()
            is_problem(first.result(), 422, "invalid")

    def test_without_a_model_there_is_no_search(self, store):
        with TestClient(create_app(None, store, CONFIG, catalog=shop())) as client:
            is_problem(client.post("/v1/search", json={"query": "1"}), 503, "live-off")
            titles = client.get("/v1/users/ann/recommendations?k=1&expand=title").json()["items"]
            assert titles == [{"item_id": "i3", "score": -0.125, "title": "Item 3"}]

    def test_the_pages_need_no_key_and_no_internet(self, ring, store):
        with TestClient(create_app(ring, store, CONFIG, api_key="secret")) as client:
            assert client.get("/").json()["docs"] == "/docs"
            page = client.get("/docs")
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert not re.search(r"(?:src|href|url\(|import)\W*(?:https?:)?//", page.text)
            assert client.get("/openapi.json").json()["info"]["title"] == "genrec"
            is_problem(client.post("/v1/search", json={"query": "1"}), 401, "no-key")


SHOWN = "text => [...document.querySelectorAll('pre')].some(answer => answer.textContent.includes(text))"


@pytest.mark.slow
def test_a_route_can_be_tried_on_the_page(ring, store):
    """In a browser that reaches nothing but the server."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path (apt-get install chromium)")
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server = uvicorn.Server(uvicorn.Config(create_app(ring, store, CONFIG, api_key="secret"), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    asked: list[str] = []
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{address}docs")
            page.fill("#key", "secret")
            route = page.locator("details", has_text="POST/v1/search")
            route.locator("summary").click()
            route.locator("textarea").fill('{"query": "11", "k": 1}')
            route.locator("tr", has_text="expand").locator("input").fill("title")
            route.locator("button").click()
            page.wait_for_function(
                "[...document.querySelectorAll('pre')].some(one => one.textContent.includes('Item 11'))"
            )
            route = page.locator("details", has_text="GET/v1/users/{user_id}/recommendations")
            route.locator("summary").click()
            route.locator("tr", has_text="user_id").locator("input").fill("a/b c?ü☃")
            route.locator("button").click()
            page.wait_for_function(
                "[...document.querySelectorAll('pre')].some(one => one.textContent.includes('\"i1\"'))"
            )
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
    assert len(asked) == 4
    assert all(url.startswith(address) for url in asked)
