"""The tutorial from its two CSV files to an endpoint that answers: in Python alone, and by command line alone.

Training is cut short, and the port is a free one; everything else is as it is printed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from worlds.small_shop import LITTLE

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/tutorial.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
GENREC = [sys.executable, "-m", "genrec.cli.main"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def curls(port: int) -> Iterator[dict[str, Any]]:
    """What the curl lines of the page get."""
    text = PAGE.replace("\\\n", " ")
    for line in re.findall(r"^    curl (.+)$", text, flags=re.MULTILINE):
        url, *rest = shlex.split(line)
        assert url.startswith("localhost:8000/")
        data = rest[rest.index("-d") + 1].encode() if "-d" in rest else None
        url = url.replace("localhost:8000", f"http://127.0.0.1:{port}")
        request = urllib.request.Request(url, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        yield found


@contextmanager
def serving(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """A process that comes to serve, ended with the block."""
    with (
        open(folder / "said.txt", "wb") as said,
        subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=said, stderr=said) as process,
    ):
        try:
            while True:
                assert process.poll() is None, (folder / "said.txt").read_text()[-2000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=60)
                    break
                except OSError:
                    time.sleep(0.5)
            yield
        finally:
            process.terminate()


def check_answers(port: int) -> None:
    """A stored list, an event, and a live list under a filter."""
    stored, event, live = curls(port)
    assert (stored["source"], stored["stale"], len(stored["items"])) == ("store", False, 3)
    assert event["accepted"] == 1
    assert (live["source"], len(live["items"]), live["history_length"]) == ("live", 3, 2)


def flags(settings: Mapping[str, Any], above: str = "--") -> Iterator[str]:
    """Settings by section as flags."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flags(value, f"{above}{name}.")
        else:
            yield f"{above}{name}={value}"


@pytest.mark.slow
def test_in_python_alone(tmp_path: Path) -> None:
    port = free_port()
    source = "\n".join(BLOCKS)
    assert source.count("port=8000") == 1
    short = "from functools import partial\nimport genrec\n" + f"genrec.fit = partial(genrec.fit, **{LITTLE!r})\n"
    source = indent(source.replace("port=8000", f"port={port}"), "    ")
    (tmp_path / "tutorial.py").write_text(f"{short}if __name__ == '__main__':\n{source}")
    with serving([sys.executable, "tutorial.py"], tmp_path, port):
        check_answers(port)
    assert "1 list, 3 items" in (tmp_path / "said.txt").read_text()


@pytest.mark.slow
def test_by_command_line_alone(tmp_path: Path) -> None:
    """The two files are made as the page says; from there on nothing but its commands is run."""
    subprocess.run([sys.executable, "-c", BLOCKS[0]], cwd=tmp_path, env=ENVIRONMENT, check=True)
    (settings,) = re.findall(r'^```yaml title="shop.yaml"\n(.*?)^```', PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.yaml").write_text(settings)
    (tmp_path / "users.csv").write_text("user_id,history\nanna,10001 10037\nben,10012\n")
    commands = [shlex.split(line) for line in re.findall(r"^    genrec (.+)$", PAGE, flags=re.MULTILINE)]
    assert [command[0] for command in commands] == ["fit", "evaluate", "inspect", "show", "recommend", "serve"]
    said = {}
    for verb, *rest in commands[:-1]:
        more = list(flags(LITTLE)) if verb == "fit" else []
        done = subprocess.run(
            [*GENREC, verb, *rest, *more], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said[verb] = done.stdout
    assert "genrec fused (default)" in said["fit"]
    assert "the best baseline" in said["evaluate"]
    assert "1 list, 3 items" in said["show"]
    assert said["recommend"] == "2 lists in runs/anna_and_ben, 0 of them short\n"
    port = free_port()
    with serving([*GENREC, *commands[-1], f"--port={port}"], tmp_path, port):
        check_answers(port)
