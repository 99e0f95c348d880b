"""A Hugging Face hub of this process: repositories in memory, behind the routes that uploads and downloads use."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest


class FakeHub:
    """Repositories by name: their files, and whether they are private."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()
        self.address = ""

    def commit(self, repo: str) -> str:
        """The id of the repository's state."""
        state = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in self.files[repo].items())
        return hashlib.sha1(json.dumps(state).encode()).hexdigest()

    def posted(self, path: str, body: bytes) -> object | None:
        """The answer to a POST; None is a 404."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.files.setdefault(repo, {})
            self.private.setdefault(repo, asked.get("private") is True or asked.get("visibility") == "private")
            return {"url": f"{self.address}/{repo}", "name": repo}
        repo = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            wanted = [one["path"] for one in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in wanted]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.files[repo][line["value"]["path"]]
            return {"commitUrl": f"{self.address}/{repo}/commit/{self.commit(repo)}", "commitOid": self.commit(repo)}
        return {} if path == "/api/validate-yaml" else None

    def got(self, path: str) -> object | bytes | None:
        """The answer to a GET; bytes are a file."""
        parts = unquote(path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and (repo := "/".join(parts[2:4])) in self.files:
            if parts[4:5] == ["tree"]:
                return [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.files[repo].items()
                ]
            names = [{"rfilename": name} for name in self.files[repo]]
            return {
                "id": repo,
                "modelId": repo,
                "sha": self.commit(repo),
                "private": False,
                "tags": [],
                "siblings": names,
            }
        if parts[2:3] == ["resolve"]:
            return self.files.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        return None


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("authorization"))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            self._answer(hub.posted(urlsplit(self.path).path, body))

        def do_GET(self) -> None:
            self._answer(hub.got(urlsplit(self.path).path))

        do_HEAD = do_GET

        def _answer(self, found: object) -> None:
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(200 if found is not None else 404)
            if found is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            if isinstance(found, bytes):
                repo = "/".join(self.path.split("/")[1:3])
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", hub.commit(repo))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler


@contextmanager
def fake_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the hub's client talks to while the block lasts, with a cache in `folder`."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = address = f"http://127.0.0.1:{server.server_address[1]}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
