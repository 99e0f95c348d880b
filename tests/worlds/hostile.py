"""Run folders as an enemy, a failing disk or a careless hand leaves them, and what a command may make of each.

A mutation changes one file of a copy of a sound run. `sealed` says whether the stage's manifest is written anew behind
it: then no hash tells, and the file's own checks must. What then opens the run must refuse it in one line, or answer:
as the sound run does where nothing was sealed anew, else anything that is a list of the catalogue's items.

The probe runs in a process of its own (`Prober`), so that a crash or a hang is a finding and not the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ("catalog", "split", "vectors/text", "vectors/collaborative", "vectors/item", "semtok", "lm")
SECONDS = 120.0  # a probe takes two; a machine may be busy


@dataclass(frozen=True)
class Mutation:
    """One change.

    Attributes:
        file: of the run.
        name: of the change.
        apply: changes the file.
        sealed: write the stage's manifest anew behind it.
    """

    file: str
    name: str
    apply: Callable[[Path], None]
    sealed: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.name}{' (sealed)' if self.sealed else ''}"


def put(path: Path, data: bytes) -> None:
    """Replace a file, or a folder that stands in its place."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: put(path, change(path.read_bytes()))


def _flip(at: float) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        place = min(len(data) - 1, int(len(data) * at))
        return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]

    return flip


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


ANY_FILE: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "empty": _bytes(lambda data: b""),
    "cut in half": _bytes(lambda data: data[: len(data) // 2]),
    "one byte flipped early": _bytes(_flip(0.02)),
    "one byte flipped in the middle": _bytes(_flip(0.5)),
    "one byte flipped late": _bytes(_flip(0.98)),
    "more behind it": _bytes(lambda data: data + b"\0" * 100),
    "noise": _bytes(lambda data: np.random.default_rng(0).bytes(max(1, len(data)))),
    "a folder": _folder,
    "a link to itself": _loop,
}

VALUES: dict[str, Any] = {
    "null": None, "true": True, "a text": "x", "no text": "", "a list": [], "an object": {}, "-1": -1, "0": 0,
    "10^12": 10**12, "10^400": 10**400, "0.5": 0.5, "1e308": 1e308, "NaN": math.nan, "lists": [[[]]], "NUL": "\0",
    "half a character": "\ud800", "outside": "../../../etc/passwd",
}  # fmt: skip

WHOLE: dict[str, bytes] = {
    "[]": b"[]", "{}": b"{}", "null": b"null", "1": b"1", "text": b'"x"', "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000, "not UTF-8": b"\xff\xfe{}", "utf-16": "{}".encode("utf-16"),
}  # fmt: skip


TEMPLATES: dict[str, str] = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "in one step": "{{ 9 ** 9 ** 9 ** 9 }}", "memory": "{{ 'a' * 10 ** 11 }}{{ messages[0]['content'] }}",
    "long": "{{ 'a' * 10 ** 8 }}{{ messages[0]['content'] }}", "broken": "{% if", "nothing": "", "no words": "hello",
    "twice": "{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "fails": "{{ raise_exception('no\nway') }}",
    "code": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}",
    "a file": "{% include '/etc/passwd' %}{{ messages[0]['content'] }}",
}  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to the values of a JSON document, at most three of a list."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield (*above, key)
            yield from places(one, (*above, key))
    elif isinstance(value, list):
        for index, one in list(enumerate(value))[:3]:
            yield (*above, index)
            yield from places(one, (*above, index))


def set_at(place: tuple[Any, ...], new: Any) -> Callable[[Path], None]:
    """Set one value of a JSON file; `...` removes it."""

    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        if new is ...:
            del inner[place[-1]]
        else:
            inner[place[-1]] = new
        put(path, json.dumps(document).encode("utf-8", "replace"))

    return change


def arrays(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Change the arrays of a safetensors file."""

    def changed(path: Path) -> None:
        from safetensors import safe_open
        from safetensors.numpy import load_file, save

        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        found = {name: np.array(array) for name, array in load_file(path).items()}
        change(found)
        put(path, save({name: np.ascontiguousarray(array) for name, array in found.items()}, metadata))

    return changed


def of_array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Change one array of a safetensors file."""
    return arrays(lambda found: found.update({name: change(found[name])}))


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[: min(3, array.size)] = value
        return array

    return change


ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "other type": lambda array: array.astype(np.float64 if array.dtype != np.float64 else np.float32),
    "a row less": lambda array: array[:-1] if array.ndim else array.reshape(1),
    "a dimension more": lambda array: array[None],
    "no rows": lambda array: array[:0] if array.ndim else array.reshape(1)[:0],
}
FLOATS = {"NaN": _first(math.nan), "infinity": _first(math.inf)}
INTEGERS = {"10^8": _first(10**8), "-5": _first(-5)}


def array_changes(path: Path) -> dict[str, Callable[[Path], None]]:
    """Every change of a safetensors file."""
    from safetensors.numpy import load_file

    changes = {"no arrays": arrays(lambda found: found.clear()), "another array": arrays(_another)}
    for name, array in load_file(path).items():
        kinds = ARRAYS | (FLOATS if array.dtype.kind == "f" else INTEGERS if array.dtype.kind == "i" else {})
        changes[f"{name}: missing"] = arrays(lambda found, name=name: found.pop(name))
        changes |= {f"{name}: {kind}": of_array(name, change) for kind, change in kinds.items()}
    return changes


def _another(found: dict[str, np.ndarray]) -> None:
    found["another"] = np.zeros(1, dtype=np.float32)


def table(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a Parquet file."""

    def changed(path: Path) -> None:
        import polars as pl

        out = io.BytesIO()
        metadata = {name: told for name, told in pl.read_parquet_metadata(path).items() if name != "ARROW:schema"}
        change(pl.read_parquet(path, glob=False)).write_parquet(out, metadata=metadata)
        put(path, out.getvalue())

    return changed


def table_changes(path: Path) -> dict[str, Callable[[Path], None]]:
    """Every change of a Parquet file."""
    import polars as pl

    changes: dict[str, Callable[[Path], None]] = {
        "no rows": table(lambda frame: frame.head(0)),
        "a row less": table(lambda frame: frame.head(len(frame) - 1)),
        "a row twice": table(lambda frame: pl.concat([frame, frame.tail(1)])),
        "turned over": table(lambda frame: frame.reverse()),
    }
    for name, dtype in pl.read_parquet_schema(path).items():
        changes[f"{name}: missing"] = table(lambda frame, name=name: frame.drop(name))
        changes[f"{name}: nulls"] = table(lambda f, n=name, d=dtype: f.with_columns(pl.lit(None, dtype=d).alias(n)))
        changes[f"{name}: numbers"] = table(lambda frame, name=name: frame.with_columns(pl.lit(10**9).alias(name)))
        changes[f"{name}: bytes"] = table(lambda frame, name=name: frame.with_columns(pl.lit(b"\xff").alias(name)))
    return changes


def file_changes(path: Path) -> dict[str, Callable[[Path], None]]:
    """Every change of one file, by its kind."""
    changes = dict(ANY_FILE)
    if path.suffix == ".json":
        changes |= {f"all of it {name}": lambda path, data=data: put(path, data) for name, data in WHOLE.items()}
        for place in places(json.loads(path.read_text())):
            told = ".".join(map(str, place))
            changes[f"{told} removed"] = set_at(place, ...)
            changes |= {f"{told} is {name}": set_at(place, value) for name, value in VALUES.items()}
    if path.suffix == ".safetensors":
        changes |= array_changes(path)
    if path.suffix == ".parquet":
        changes |= table_changes(path)
    if path.suffix == ".jinja":
        changes |= {name: lambda path, text=text: put(path, text.encode()) for name, text in TEMPLATES.items()}
    return changes


def some(changes: dict[str, Callable[[Path], None]], most: int, seed: int) -> list[str]:
    """At most so many, drawn by seed."""
    return sorted(np.random.default_rng(seed).permutation(sorted(changes))[:most].tolist())


def files_of(run: Path, *, report: bool = False) -> list[str]:
    """The files of a run's stages that commands read, with those of the report where asked."""
    stages = (*STAGES, "report") if report else STAGES
    return [
        str(path.relative_to(run)) for stage in stages for path in sorted((run / stage).rglob("*")) if path.is_file()
    ]


def seal(run: Path, file: str, *, behind: bool = True, added: bool = False) -> None:
    """Write the manifest of the file's stage anew, as whoever tampers would.

    Args:
        behind: also in the stages behind it, that they were made of what stands there now.
        added: the file is a new one of the stage.
    """
    from genrec.semtok.folders import MANIFEST, hash_file, hash_value

    stage = next(stage for stage in (*STAGES, "report") if file.startswith(f"{stage}/"))
    path = run / stage / MANIFEST
    manifest = json.loads(path.read_text())
    for name in [*manifest["files"], *([file.removeprefix(f"{stage}/")] if added else [])]:
        one = run / stage / name
        if not one.is_file():
            del manifest["files"][name]
        else:
            manifest["files"][name] = {"bytes": one.stat().st_size, "sha256": hash_file(one)}
    put(path, json.dumps(manifest).encode())
    for later in STAGES if behind else ():
        path = run / later / MANIFEST
        value = json.loads(path.read_text())
        if stage in value["inputs"].get("needs", {}):
            value["inputs"]["needs"][stage] = hash_value(manifest["files"])
            put(path, json.dumps(value).encode())


def mutate(run: Path, into: Path, mutation: Mutation, *, report: bool = False) -> Path:
    """A copy of a run with one change, with its report where asked."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(run, into, ignore=shutil.ignore_patterns("topk", *([] if report else ["report"])))
    mutation.apply(into / mutation.file)
    if mutation.sealed:
        seal(into, mutation.file)
    return into


@dataclass(frozen=True)
class Outcome:
    """What became of a probe.

    Attributes:
        kind: answered, refused, defect (a traceback, or a list that is none), crash or hang.
        told: digest of the answers, the line of the refusal, or what went wrong.
    """

    kind: str
    told: str


def outcome_of(ask: Callable[[], Any]) -> Outcome:
    """What becomes of asking: a JSON-able answer, a refusal in one line, or a defect."""
    from genrec.semtok.errors import InputError

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            answer = ask()
    except InputError as error:
        return Outcome("defect" if "\n" in str(error) else "refused", str(error))
    except BaseException:
        return Outcome("defect", traceback.format_exc()[-3000:])
    return Outcome("answered", hashlib.sha256(json.dumps(answer, allow_nan=False).encode()).hexdigest())


def told_by(*command: str) -> str:
    """What a command prints, where it ends well.

    Raises:
        InputError: it ends with status 2; the message is its last line on standard error.
        AssertionError: it ends otherwise.
    """
    from genrec.cli.main import main
    from genrec.semtok.errors import InputError

    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        status = main(command)
    if status == 2:
        line = (errors.getvalue().splitlines() or ["nothing"])[-1]
        assert line.startswith(f"genrec {command[0]}: "), errors.getvalue()[-1000:]  # one line, and the last
        raise InputError(line)
    assert status == 0, f"{command[0]} ends with status {status}: {errors.getvalue()[-1000:]}"
    return out.getvalue()


def probe(run: Path) -> Outcome:
    """Open a run and ask it for lists, items by words, neighbours and what it says of itself."""

    def ask() -> Any:
        from genrec import Recommender
        from genrec.semtok.errors import InputError

        recommender = Recommender.from_pretrained(run, device="cpu")
        ids = recommender.catalog.item_ids
        lists = recommender.recommend([list(ids[:3]), list(ids[5:6]), []], k=5)
        answers = [[ids[row] for row in rows.tolist()] for rows in lists.rows], lists.scores.tolist()
        found = recommender.search("red shirt", 3).pairs(), recommender.similar(ids[0], 3).pairs()
        for command in (["inspect", str(run)], ["inspect", str(run), ids[0]]):
            with contextlib.suppress(InputError):
                told_by(*command)
        return answers, found

    return outcome_of(ask)


def _serve(connection: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            ask, path = connection.recv()
        except EOFError:  # the prober is gone
            return
        connection.send(ask(path))


class Prober:
    """Probes in a process of its own, which is started again where one crashed it or did not end."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, path: Path, ask: Callable[[Path], Outcome] = probe) -> Outcome:
        """What becomes of a probe (a function of a module) of a path."""
        self._connection.send((ask, path))
        try:
            if self._connection.poll(self.seconds):
                outcome: Outcome = self._connection.recv()
                return outcome
            found = Outcome("hang", f"no answer in {self.seconds:.0f} s")
        except (EOFError, ConnectionResetError):
            self._process.join()
            found = Outcome("crash", f"ended with status {self._process.exitcode}")
        self.close()
        self._start()
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def judged(mutation: Mutation, outcome: Outcome, sound: Outcome) -> str | None:
    """What is wrong with an outcome, or None."""
    if outcome.kind == "refused" or (outcome.kind == "answered" and (mutation.sealed or outcome == sound)):
        return None
    told = "other lists than the sound run's" if outcome.kind == "answered" else f"{outcome.kind}: {outcome.told}"
    return f"{mutation}: {told}"
