"""An OpenAI-compatible server that answers what it is told to, or fails in every way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class ChatHandler(BaseHTTPRequestHandler):
    """It answers with `answer`: the text of the model's message, what makes it of a request, or a way to fail."""

    answer: ClassVar[str | Callable[[dict[str, Any]], str]] = ""
    asked: ClassVar[list[dict[str, Any]]] = []
    stop: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": "any-model"}]}).encode())

    def do_POST(self) -> None:
        kind = type(self)
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind.asked.append(request)
        answer = kind.answer if isinstance(kind.answer, str) else kind.__dict__["answer"](request)
        if answer == "slow":
            self.stop.wait(30)
        elif answer == "drip":
            self.send_response(200)
            self.end_headers()
            while not self.stop.wait(0.05):
                self.wfile.write(b" ")
        elif answer == "500":
            self.send_error(500)
        elif answer == "other":
            self._send(b'{"hello": [[[')
        elif answer == "long":
            self._send(b" " * (2 << 20))
        else:
            self._send(json.dumps({"choices": [{"message": {"content": answer}}]}).encode())

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def answering() -> Iterator[str]:
    """The address of a server that has been asked nothing yet."""
    ChatHandler.asked, ChatHandler.stop = [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), ChatHandler)
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign] # the client went away, as it should
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    ChatHandler.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()
