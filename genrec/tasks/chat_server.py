"""`ChatServer`: one question to an OpenAI-compatible server, answered in time, as JSON of a schema if asked.

    server = ChatServer("http://localhost:8000", timeout=10.0)
    server.answer([{"role": "user", "content": "..."}])              # text
    server.answer([{"role": "user", "content": "..."}], schema)      # the text of a JSON object

A schema goes along as `response_format` of the type `json_schema` (structured output): vLLM and others constrain
what is generated to it, whatever the model.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

MAX_TOKENS = 500
LONGEST_ANSWER = 1 << 20  # bytes
_PIECE = 1 << 14


def is_address(text: str) -> bool:
    """Whether a text is the address of a server, such as http://localhost:8000."""
    try:
        address = urlsplit(text)
        return address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:  # a port or a host that is none
        return False


class ServerError(Exception):
    """The server is down, slow, or answers something else; the message says which in a few words."""


def connect(address: SplitResult, timeout: float) -> http.client.HTTPConnection:
    """A connection to the server, used once."""
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    return kind(address.hostname or "", address.port, timeout=timeout)


def respond(
    connection: http.client.HTTPConnection, address: SplitResult, method: str, path: str, body: Any
) -> http.client.HTTPResponse:
    """Send a request; the response, which is not read yet. Raises HTTPException where its status is none of success."""
    prefix = address.path.rstrip("/").removesuffix("/v1")
    content = None if body is None else json.dumps(body).encode()
    connection.request(method, prefix + path, content, {"Content-Type": "application/json", "Connection": "close"})
    response = connection.getresponse()
    if response.status != 200:
        raise http.client.HTTPException(f"status {response.status}")
    return response


class ChatServer:
    """An OpenAI-compatible server.

    Args:
        address: such as http://localhost:8000.
        timeout: seconds for one whole answer.
        max_tokens: of an answer; a longer one is cut, and then no JSON.
    """

    def __init__(self, address: str, *, timeout: float, max_tokens: int = MAX_TOKENS) -> None:
        self._address, self._timeout, self._max_tokens = urlsplit(address), timeout, max_tokens
        self._model: str | None = None

    def answer(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any] | None = None) -> str:
        """What the model answers, to a schema which the caller checks; raises ServerError where none comes in time."""
        end = time.monotonic() + self._timeout
        try:
            if self._model is None:
                self._model = str(self._ask("GET", "/v1/models", None, end)["data"][0]["id"])
            asked: dict[str, Any] = {"model": self._model, "messages": list(messages), "temperature": 0}
            asked["max_tokens"] = self._max_tokens
            if schema is not None:
                asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
            return str(self._ask("POST", "/v1/chat/completions", asked, end)["choices"][0]["message"]["content"])
        except TimeoutError as error:
            raise ServerError("is slow") from error
        except (OSError, http.client.HTTPException) as error:
            self._model = None  # another one may answer there when it is up again
            raise ServerError(f"does not answer ({type(error).__name__})") from error
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise ServerError("answers something else") from error

    def _ask(self, method: str, path: str, body: Any, end: float) -> Any:
        connection = connect(self._address, _left(end))
        try:
            response = respond(connection, self._address, method, path, body)
            received = bytearray()
            while piece := response.read1(_PIECE):
                received += piece
                if len(received) > LONGEST_ANSWER:
                    raise ValueError("too long")
                if connection.sock is not None:
                    connection.sock.settimeout(_left(end))
                else:
                    _left(end)
            return json.loads(received)
        finally:
            connection.close()


def _left(end: float) -> float:
    """Seconds until `end`; raises TimeoutError where there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
