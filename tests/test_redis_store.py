"""The Redis store against a real `redis-server` (Debian's package) on a free loopback port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from worlds.ring_recommender import RingRecommender, shop
from worlds.sealed import seal_catalog
from worlds.store_contract import LISTS, StoreContract, batch_of, check_equals_dictionaries, served
from worlds.topk_batches import write_batch

from genrec.cli.main import main as genrec_main
from genrec.inference.serve.server import ServeConfig, create_app
from genrec.inference.store.opening import open_store
from genrec.inference.store.redis_store import RedisStore
from genrec.inference.store.topk_store import StoreUnavailable
from genrec.semtok.errors import InputError

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    for _ in range(100):
        try:
            client.ping()
            return server
        except redis.ConnectionError:
            time.sleep(0.05)
    raise RuntimeError("redis-server does not answer")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port = free_port()
    process = start(tmp_path_factory.mktemp("redis"), port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture
def url(server):
    redis.Redis.from_url(server).flushall()
    return server


@pytest.fixture
def store(url):
    opened = open_store(url)
    yield opened
    opened.close()


@pytest.fixture
def open_reader(url):
    return lambda: RedisStore(url)


class TestRedisStore(StoreContract):
    pass


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=LISTS, second=LISTS)
def test_it_equals_a_dictionary(store, tmp_path_factory, first, second):
    check_equals_dictionaries(store, tmp_path_factory.mktemp("batches"), first, second)


def test_two_stores_share_a_server_and_follow_each_other(url, tmp_path):
    one, other = RedisStore(url), RedisStore(url)
    one.load(batch_of(tmp_path, "a"))
    assert served(other) == "a"
    other.load(batch_of(tmp_path, "b"))
    assert served(one) == "b"
    one.rollback()
    assert served(other) == "a"


def test_after_the_database_was_emptied_nothing_decodes_through_an_older_table(url, tmp_path):
    one, other = RedisStore(url), RedisStore(url)
    one.load(batch_of(tmp_path, "a"))
    assert served(other) == "a"
    redis.Redis.from_url(url).flushall()  # as a restart without persistence
    assert one.load(batch_of(tmp_path, "b")).version == "v000001"
    assert served(other) == "b"


def test_only_two_versions_are_kept(store, url, tmp_path):
    for name in "abcd":
        store.load(batch_of(tmp_path, name))
    keys = {key.decode() for key in redis.Redis.from_url(url).scan_iter(match="genrec:v*:lists")}
    assert keys == {"genrec:v000003:lists", "genrec:v000004:lists"}


def test_prefixes_keep_stores_apart(url, tmp_path):
    one, other = RedisStore(url, prefix="one"), RedisStore(url, prefix="other")
    one.load(batch_of(tmp_path, "a"))
    assert other.info() is None
    other.load(batch_of(tmp_path, "b"))
    assert (served(one), served(other)) == ("a", "b")


LOADER = """
import os, signal, sys
from pathlib import Path
from genrec.inference.store.redis_store import RedisStore
from genrec.inference.serve.server import ServeConfig, create_app

store, batch, kill_at = RedisStore(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
steps = 0

def count(frame, event, argument):
    global steps
    if frame.f_code.co_filename.endswith("redis_store.py"):
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.setprofile(count)
store.load(batch)
sys.setprofile(None)
print(steps)
"""


def test_a_killed_load_leaves_the_old_batch_or_the_new_one(url, tmp_path):
    old, new = batch_of(tmp_path, "old"), batch_of(tmp_path, "new")
    store, client = RedisStore(url), redis.Redis.from_url(url)
    store.load(old)

    def load(kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOADER, url, str(new), str(kill_at)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])

    steps = int(load(0).stdout)
    for fraction in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
        store.load(old)
        assert load(max(1, int(fraction * steps))).returncode == -signal.SIGKILL
        assert served(store) in ("old", "new")
        client.delete("genrec:loading")  # as its time runs out
    assert load(0).returncode == 0
    assert served(store) == "new"
    kept = client.get("genrec:current").decode()
    versions = {key.decode().split(":")[1] for key in client.scan_iter(match="genrec:v*")}
    assert len(versions) == 2
    assert all(version in kept for version in versions)


def test_a_server_that_is_gone_is_said_to_be(tmp_path):
    port = free_port()
    with pytest.raises(InputError, match=f"127.0.0.1:{port}/0: cannot reach Redis"):
        RedisStore(f"redis://:secret@127.0.0.1:{port}/0")
    process = start(tmp_path, port)
    store = RedisStore(f"redis://127.0.0.1:{port}/0")
    store.load(batch_of(tmp_path, "a"))
    process.terminate()
    process.wait(timeout=20)
    for ask in (lambda: store.get("user1"), store.info, lambda: store.add_events("user1", ["e"])):
        with pytest.raises(StoreUnavailable):
            ask()


def test_the_server_answers_from_redis_and_says_when_it_is_gone(tmp_path):
    port = free_port()
    process = start(tmp_path, port)
    store = RedisStore(f"redis://127.0.0.1:{port}/0", timeout=0.5)
    store.load(write_batch(tmp_path / "topk", {"ann": [("i3", -1.0)]}))
    app = create_app(RingRecommender(shop()), store, ServeConfig(run=Path("run"), rate=0))
    with TestClient(app) as client:
        assert client.get("/v1/users/ann/recommendations").json()["source"] == "store"
        assert client.post("/v1/users/ann/events", json={"item_ids": ["i5"]}).status_code == 202
        assert client.get("/v1/users/ann/recommendations?k=1").json()["items"][0]["item_id"] == "i6"
        process.terminate()
        process.wait(timeout=20)
        answer = client.get("/v1/users/ann/recommendations")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:genrec:store-down")
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


def test_a_server_that_fails_later_is_one_line(url, tmp_path, capsys):
    run = tmp_path / "run"
    seal_catalog(run, shop())
    (run / "config.yaml").write_text("")
    batch = write_batch(run / "topk", {"ann": [("i3", -1.0)]})
    client = redis.Redis.from_url(url)
    client.config_set("maxmemory", 1)  # it answers, and refuses every write
    try:
        assert genrec_main(["store", "load", url, str(batch)]) == 2
        assert genrec_main(["serve", str(run), "--store", url, "--live", "false"]) == 2
    finally:
        client.config_set("maxmemory", 0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("genrec store: Redis: ")
    assert second.startswith("genrec serve: the store: Redis: ")


GARBAGE = {
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "another document": b'["v000001"]',
    "no version": b'{"previous": "v000001"}',
    "a number": b'{"current": 7}',
    "a version that is not there": b'{"current": "v000099"}',
}


@pytest.mark.parametrize("kind", [*GARBAGE, "another type"])
def test_garbage_in_place_of_the_pointer(url, tmp_path, kind, caplog):
    """Who serves a version goes on; who has none is told, not failed; a load mends it."""
    client, store = redis.Redis.from_url(url), RedisStore(url)
    store.load(batch_of(tmp_path, "a"))
    assert served(store) == "a"
    client.delete("genrec:current")
    if kind == "another type":
        client.hset("genrec:current", "current", "v000001")
    else:
        client.set("genrec:current", GARBAGE[kind])
    assert served(store) == "a"
    assert store.history("user1") == ()
    fresh = RedisStore(url)
    for ask in (lambda: fresh.get("user1"), fresh.info, lambda: fresh.history("user1")):
        with pytest.raises(StoreUnavailable):
            ask()
    with pytest.raises((StoreUnavailable, InputError)):
        fresh.rollback()
    fresh.load(batch_of(tmp_path, "b"))
    assert served(fresh) == served(store) == "b"
    with pytest.raises(InputError, match="no version to go back to"):
        fresh.rollback()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("items", value) for value in (b"[", b'["one"]', b"{}", b"\xff", None)),
        *(("info", value) for value in (b"7", b'{"version": "v000002"}', None)),
    ],
)
def test_garbage_in_the_next_version_leaves_the_one_before(url, tmp_path, part, value, caplog):
    client, store = redis.Redis.from_url(url), RedisStore(url)
    store.load(batch_of(tmp_path, "a"))
    assert served(store) == "a"
    RedisStore(url).load(batch_of(tmp_path, "b"))
    client.delete(f"genrec:v000002:{part}") if value is None else client.set(f"genrec:v000002:{part}", value)
    assert served(store) == "a"
    assert "goes on serving" in caplog.text
    with pytest.raises(StoreUnavailable):
        RedisStore(url).get("user1")
    assert RedisStore(url).rollback().version == "v000001"
    assert served(RedisStore(url)) == served(store) == "a"


def test_garbage_of_one_user_is_a_503_of_that_user(url, tmp_path):
    client, store = redis.Redis.from_url(url), RedisStore(url)
    store.load(write_batch(tmp_path / "topk", {name: [("i3", -1.0)] for name in ("ann", "bob", "cleo", "dan")}))
    client.hset("genrec:v000001:lists", "ann", b"odd")
    client.hset("genrec:v000001:lists", "bob", b"\xff\xff" + b"\x00" * 4)
    client.hset("genrec:v000001:lists", "cleo", b"\x00\x00" + b"\xff" * 4)  # a score that is no number
    for line in (b"{", b"[1]", b'["x", "y"]', b"[1, 2]"):
        client.rpush("genrec:events:dan", line)
    with TestClient(create_app(RingRecommender(shop()), store, ServeConfig(run=Path("run"), rate=0))) as app:
        for name in ("ann", "bob", "cleo"):
            answer = app.get(f"/v1/users/{name}/recommendations")
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:genrec:store-down")
        assert app.get("/v1/users/dan/recommendations").json()["source"] == "store"
        assert app.post("/v1/recommendations", json={"user_id": "dan"}).status_code == 503
        client.set("genrec:current", b"{")
        assert app.get("/v1/users/dan/recommendations").json()["source"] == "store"
        assert app.get("/health/ready").status_code == 200
        client.delete("genrec:latest")
        client.set("genrec:latest", b"no sorted set")
        assert app.get("/v1/users/dan/recommendations").status_code == 503
        assert app.get("/metrics").status_code == 200


def test_a_password_is_in_no_message():
    with pytest.raises(InputError) as error:
        RedisStore(f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert "secret" not in str(error.value)


def test_the_command_line_takes_a_url(url, tmp_path, capsys):
    assert genrec_main(["store", "load", url, str(batch_of(tmp_path, "a"))]) == 0
    assert '"version": "v000001"' in capsys.readouterr().out
    assert genrec_main(["store", "info", url]) == 0
    assert genrec_main(["store", "rollback", url]) == 2
    assert "no version to go back to" in capsys.readouterr().err
