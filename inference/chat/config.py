"""`ChatConfig`: how `genrec chat` talks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genrec.semtok import options as check
from genrec.semtok.errors import OptionError
from genrec.tasks.chat_server import is_address


@dataclass(frozen=True)
class ChatConfig:
    """How to talk to a run.

    Attributes:
        run: the run's folder.
        web: serve a web page instead of talking in the terminal.
        prose: address of a vLLM OpenAI server on RUN/lm that writes the prose, such as http://localhost:8001.
        reader: who reads what is typed: rules, or the address of an OpenAI-compatible server (vLLM), such as
            http://localhost:8000, with rules where it doesn't answer.
        k: cards a turn.
        compare: a second run, to compare with side by side on the page.
        images: show the pictures that a column named image or image_url has; the browser fetches them from its sites.
        host: address that the page listens on.
        port: port that the page listens on.
        device: of the torch engine; null takes the GPU where there is one.
        verify: compare the run's files with their hashes; --no-verify compares sizes alone, and says so.
    """

    run: Path
    web: bool = False
    prose: str | None = None
    reader: str = "rules"
    k: int = 6
    compare: Path | None = None
    images: bool = False
    host: str = "127.0.0.1"
    port: int = 7860
    device: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 50:
            raise OptionError("k", f"{self.k} is not in 1 to 50")
        check.path(self, "run", "compare")
        check.port(self, "port")
        if self.prose is not None and not is_address(self.prose):
            raise OptionError("prose", f"{self.prose!r}: an address such as http://localhost:8001")
        if self.reader != "rules" and not is_address(self.reader):
            raise OptionError("reader", f"{self.reader!r}: rules, or an address such as http://localhost:8000")
        if self.compare is not None and not self.web:
            raise OptionError("compare", "needs --web: two runs are compared on the web page")
        if self.images and not self.web:
            raise OptionError("images", "needs --web: pictures are shown on the web page")
