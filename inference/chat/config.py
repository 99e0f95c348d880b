"""`ChatConfig`: how `genrec chat` talks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from genrec.semtok.errors import InputError


@dataclass(frozen=True)
class ChatConfig:
    """How to talk to a run.

    Attributes:
        run: the run's folder.
        web: serve a web page instead of talking in the terminal.
        prose: address of a vLLM OpenAI server on RUN/lm that writes the prose, such as http://localhost:8001.
        k: cards a turn.
        compare: a second run, to compare with side by side on the page.
        host: address that the page listens on.
        port: port that the page listens on.
        device: of the torch engine; null takes the GPU where there is one.
    """

    run: Path
    web: bool = False
    prose: str | None = None
    k: int = 5
    compare: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    device: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 50:
            raise InputError(f"--k: 1 to 50, not {self.k}")
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port: 0 to 65535, not {self.port}")
        if self.prose is not None:
            address = urlsplit(self.prose)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise InputError(f"--prose: an address such as http://localhost:8001, not {self.prose!r}")
        if self.compare is not None and not self.web:
            raise InputError("--compare: two runs are compared on the web page; add --web")
