"""`ServeConfig`: how `genrec serve` serves a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from genrec.inference.engines import ENGINES
from genrec.semtok import options as check
from genrec.semtok.errors import OptionError
from genrec.semtok.nearest import Retrieval


@dataclass(frozen=True)
class ServeConfig:
    """How to serve a run.

    Attributes:
        run: the run's folder.
        store: a folder or a Redis URL; RUN/store where None. An empty one takes RUN/topk in at the start.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        workers: processes; each holds its own model where `live`, all share the store's pages.
        live: answer from the model too; without it the model is not loaded and only stored lists are served.
        engine: what runs the model: torch, or vllm.
        device: of the torch engine; None takes the GPU where there is one.
        retrieval: exact; approximate, by the extra faiss; or auto: approximate from 200,000 items on where the extra
            is installed.
        max_k: most items that a request may want.
        max_history: most items that a request may name.
        max_body_bytes: largest body.
        connections: most open connections of each worker; for one more, the one idle longest is closed.
        rate: requests per second that one address may go on making, in each worker; 0 for no limit.
        batch: most live requests that go through the model together.
        wait_ms: milliseconds that the first of them waits for company.
        queue: most live requests waiting; more are refused.
        timeout: seconds that a live answer may take, and a request's headers or body on their way.
        drain: seconds that requests under way get when the server is told to stop.
        verify: compare the files of the run and of a store's folder with their hashes at the start; --no-verify
            compares sizes alone, and says so.
    """

    run: Path
    store: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    live: bool = True
    engine: str = "torch"
    device: str | None = None
    retrieval: Retrieval = "auto"
    max_k: int = 100
    max_history: int = 200
    max_body_bytes: int = 1 << 16
    connections: int = 512
    rate: float = 1000.0
    batch: int = 16
    wait_ms: float = 2.0
    queue: int = 256
    timeout: float = 10.0
    drain: int = 30
    verify: bool = True

    def __post_init__(self) -> None:
        check.choice(self, "engine", ENGINES)
        check.choice(self, "retrieval", get_args(Retrieval))
        check.at_least_one(self, "workers", "max_k", "max_history", "max_body_bytes", "connections", "batch", "queue")
        check.path(self, "run", "store")
        check.not_negative(self, "rate", "wait_ms", "drain")
        check.positive(self, "timeout")
        check.port(self, "port")
        if self.port == 0 and self.workers > 1:
            raise OptionError("port", "0: several workers need a number")
