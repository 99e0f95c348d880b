"""Hostile connections to a real server on loopback: each is bounded, and another client is answered meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from worlds.ring_recommender import RingRecommender, shop

from genrec.inference.serve.connections import ConnectionLimits, Connections
from genrec.inference.serve.server import ServeConfig, create_app

HEAD = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"history": ["i1"], "k": 1}'


@contextlib.contextmanager
def served(
    limits: ConnectionLimits, ring: RingRecommender, send_bytes: int | None = None
) -> Iterator[tuple[int, uvicorn.Server]]:
    """A port, and the server that listens there."""
    config = ServeConfig(run=Path("run"), rate=0, max_body_bytes=limits.body_bytes, timeout=limits.seconds)
    app = create_app(ring, None, config)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    if send_bytes is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    server = uvicorn.Server(uvicorn.Config(app, http=Connections(limits), ws="none", log_level="critical"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until(lambda: server.started)
        yield listening.getsockname()[1], server
    finally:
        ring.gate.set()
        server.should_exit = True
        thread.join()


@pytest.fixture
def ring() -> RingRecommender:
    return RingRecommender(shop())


@pytest.fixture
def port(ring: RingRecommender) -> Iterator[int]:
    with served(ConnectionLimits(connections=40, head_bytes=1 << 14, body_bytes=1 << 12, seconds=1.0), ring) as (at, _):
        yield at


def until(holds: Callable[[], object]) -> None:
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("did not come about")


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def answer(client: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and document of an answer; (0, {}) where the server closes without one."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < length(data):
            piece = client.recv(1 << 16)
            if not piece:
                break
            data += piece
    return (int(data.split()[1]), json.loads(data.partition(b"\r\n\r\n")[2])) if data else (0, {})


def length(data: bytes) -> int:
    return int(data.lower().partition(b"content-length:")[2].split()[0])


def is_answered(port: int) -> bool:
    """Whether another client gets what it asks for."""
    with connect(port) as client:
        client.sendall(HEAD + b"\r\n")
        return answer(client) == (200, {"status": "live"})


def is_closed(client: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        return client.recv(1) == b""
    return True


@pytest.mark.parametrize(
    "opening", [HEAD + b"X: ", HEAD + b"X", b"GET /", b"G" * 10, b"\r\n", POST + b"Content-Length: 4\r\nX: "]
)
def test_an_endless_head_is_refused_and_ends(port: int, opening: bytes) -> None:
    """A value, a name, a path, a method or blank lines without end."""
    piece = (b"\r\n" if opening == b"\r\n" else b"a") * 8192
    with connect(port) as client:
        client.sendall(opening)
        with contextlib.suppress(OSError):
            for sent in range(2000):
                client.sendall(piece)
                assert sent or is_answered(port)
        status, problem = answer(client)
        assert status in (0, 400, 431)
        if status == 431:
            assert problem["type"] == "urn:genrec:headers-too-large"
    assert sent < 1999
    assert is_answered(port)


def test_a_refusal_of_large_headers_can_be_read(port: int) -> None:
    for headers in (b"X: " + b"a" * (1 << 14) + b"\r\n", b"".join(b"X%d: a\r\n" % n for n in range(3000))):
        with connect(port) as client:
            client.sendall(HEAD + headers + b"\r\n")
            status, problem = answer(client)
            assert (status, problem["type"]) == (431, "urn:genrec:headers-too-large")
            assert is_closed(client)


def test_headers_below_the_limit_are_taken_in_any_pieces(port: int) -> None:
    with connect(port) as client:
        request = HEAD + b"X: " + b"a" * 8000 + b"\r\nY: b\r\n\r\n"
        for part in (*(request[at : at + 1000] for at in range(0, len(request), 1000)), request, request * 5):
            client.sendall(part)
        client.sendall(HEAD + b"Connection: close\r\n\r\n")
        data = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert data.count(b'{"status":"live"}') == 8


def test_a_head_that_dribbles_in_is_given_up(port: int) -> None:
    with connect(port) as client:
        status = None
        for letter in HEAD * 1000:  # a letter every tenth of a second: within the limit of bytes for ever
            try:
                client.sendall(bytes([letter]))
                client.settimeout(0.1)
                status, problem = answer(client)
                break
            except TimeoutError:
                assert is_answered(port)
            except ConnectionError:
                break
        assert status in (0, 408)
        if status == 408:
            assert problem["type"] == "urn:genrec:slow-headers"


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /health"])
def test_who_connects_and_stops_sending_is_closed(port: int, sent: bytes) -> None:
    with connect(port) as client:
        client.sendall(sent)
        assert answer(client)[0] in ((408,) if sent else (0,))
        assert is_closed(client)


@pytest.mark.parametrize("method", [POST, b"GET /health/live HTTP/1.1\r\nHost: x\r\n"])
def test_a_half_body_is_given_up(port: int, method: bytes) -> None:
    """A route that reads no body answers at once, and its client is closed too."""
    with connect(port) as client:
        client.sendall(method + b"Content-Length: 100\r\n\r\n{")
        assert is_answered(port)
        status, problem = answer(client)
        assert (status, problem.get("type")) in ((408, "urn:genrec:slow-body"), (200, None))
        assert is_closed(client)


@pytest.mark.parametrize("method", [POST, b"GET /health/live HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.parametrize("length", [b"Content-Length: 100000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_an_endless_body_is_refused_and_ends(port: int, method: bytes, length: bytes) -> None:
    piece = b"2000\r\n" + b"a" * 0x2000 + b"\r\n" if b"chunked" in length else b"a" * 0x2000
    with connect(port) as client:
        client.sendall(method + length)
        with contextlib.suppress(OSError):
            for sent in range(2000):
                client.sendall(piece)
                assert sent or is_answered(port)
        assert answer(client)[0] in (0, 200, 413)
    assert sent < 1999
    assert is_answered(port)


def test_a_connection_goes_on_after_a_body_that_is_a_little_too_large(port: int) -> None:
    with connect(port) as client:
        client.sendall(POST + b"Content-Length: 5000\r\n\r\n" + b"a" * 5000)
        status, problem = answer(client)
        assert (status, problem["type"]) == (413, "urn:genrec:body-too-large")
        client.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert answer(client)[0] == 200


def test_who_reads_no_answers_is_dropped(ring: RingRecommender) -> None:
    with served(ConnectionLimits(seconds=0.5), ring, send_bytes=4096) as (port, server), connect(port) as client:
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 90)
        until(lambda: server.server_state.connections)
        assert is_answered(port)
        until(lambda: not server.server_state.connections)


def test_requests_without_end_before_the_first_answer_are_dropped(port: int) -> None:
    with connect(port) as client:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012
            for _ in range(2000):
                client.sendall((HEAD + b"\r\n") * 500)
        assert is_answered(port)


def test_idle_connections_give_way_to_new_ones(ring: RingRecommender) -> None:
    limits = ConnectionLimits(connections=60, seconds=60)
    openings = (b"", b"GET /", HEAD + b"\r\n", POST + b"Content-Length: 100\r\n\r\n{")
    with served(limits, ring) as (port, server), contextlib.ExitStack() as stack:
        clients = []
        for number in range(400):
            clients.append(stack.enter_context(connect(port)))
            clients[-1].sendall(openings[number % 4])
            if number % 50 == 0:
                assert is_answered(port)
        until(lambda: len(server.server_state.connections) <= 60)
        assert is_answered(port)
        held = sum(1 for client in clients if is_open(client))
        assert 40 <= held <= 60


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        while client.recv(1 << 16):
            pass
        return False
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_requests_under_way_are_not_given_up_for_new_connections(ring: RingRecommender) -> None:
    with served(ConnectionLimits(connections=5, seconds=60), ring) as (port, server), contextlib.ExitStack() as stack:
        ring.gate.clear()
        asking = [stack.enter_context(connect(port)) for _ in range(5)]
        for client in asking:
            client.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        until(lambda: len(server.server_state.tasks) == 5 and not server.config.http.waiting)  # type: ignore[union-attr]
        with connect(port) as late:
            status, problem = answer(late)
            assert (status, problem["type"]) == (503, "urn:genrec:overloaded")
        ring.gate.set()
        assert [answer(client)[0] for client in asking] == [200] * 5
        assert is_answered(port)


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET \xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        HEAD + b"X\x00Y: a\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_problem_document(port: int, request_: bytes) -> None:
    with connect(port) as client:
        client.sendall(request_)
        status, problem = answer(client)
        assert (status, problem["type"]) == (400, "urn:genrec:bad-request")
    assert is_answered(port)
