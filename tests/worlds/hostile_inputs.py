"""Tables, users, settings and options that nobody means to write, drawn at random, and what a command may make of them.

A case is a folder with what a command reads, and `case.json`: the command, those that must end well behind it where it
did, and those that must end well in any case. `probe_case` runs them; one line and status 2, or an answer.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from worlds.hostile import VALUES, Outcome, outcome_of, told_by
from worlds.small_shop import SMALL

TOKENS = [
    b"\0", b"\xff", b'"', b",", b"\n", b"\r", b"{", b"}", b"[", b"]", b"1e999", b"9" * 400, b"\xed\xa0\x80", b"null",
    b"NaN", b"-1", b" " * 1000, b"=", b"\\", b"\\ud800", b"'", b"<a_1>", b"<|end|>", b"true", b"0", b"-0.0",
    b"\xef\xbb\xbf", b"a" * 70_000, "\u202e".encode(), b"\t", b"1970-01-01", b"[" * 2000,
]  # fmt: skip
TABLES: dict[str, Callable[[pl.Expr], pl.Expr]] = {  # of a column of a Parquet file
    "nulls": lambda column: pl.lit(None),
    "numbers": lambda column: pl.int_range(pl.len()),
    "negative": lambda column: -pl.int_range(pl.len()),
    "floats": lambda column: pl.int_range(pl.len()) / 3,
    "not finite": lambda column: pl.lit(math.inf),
    "no numbers": lambda column: pl.lit(math.nan),
    "huge": lambda column: pl.lit(2**63, dtype=pl.UInt64),
    "times": lambda column: pl.lit("2020-01-01").str.to_datetime(),
    "days": lambda column: pl.lit("2020-01-01").str.to_date(),
    "durations": lambda column: pl.lit("2020-01-01").str.to_date() - pl.lit("2019-01-01").str.to_date(),
    "booleans": lambda column: pl.lit(True),
    "bytes": lambda column: pl.lit(b"\xff"),
    "lists": lambda column: pl.concat_list(column, column),
    "lists of lists": lambda column: pl.concat_list(pl.concat_list(column)),
    "objects": lambda column: pl.struct(column.alias("a")),
    "one value": lambda column: column.first(),
    "empty texts": lambda column: pl.lit(""),
    "categories": lambda column: pl.int_range(pl.len()).cast(pl.String).cast(pl.Categorical),
    "decimals": lambda column: pl.int_range(pl.len()).cast(pl.Decimal(10, 2)),
}


def draw(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """One of several."""
    return values[int(rng.integers(len(values)))]


def random_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: a byte, a token, a piece more or less, lines exchanged, an end cut off."""
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(data) + 1))
        end = min(len(data), place + int(rng.integers(1, 200)))
        match int(rng.integers(7)):
            case 0 if data:
                at = min(place, len(data) - 1)
                data = data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :]
            case 1 | 2:
                data = data[:place] + draw(rng, TOKENS) + data[place:]
            case 3:
                data = data[:place] + data[end:]
            case 4:
                data = data[:end] + data[place:end] + data[end:]
            case 5:
                lines = data.splitlines(keepends=True)
                data = b"".join(lines[int(i)] for i in rng.permutation(len(lines)))
            case 6:
                data = data[:place] if rng.integers(4) == 0 else data
    return data


def random_table(path: Path, rng: np.random.Generator) -> Path:
    """Change a JSONL or CSV table at random: its bytes, a value of a row, or as a Parquet file a column's type."""
    kind = int(rng.integers(3))
    if kind == 0:
        path.write_bytes(random_bytes(path.read_bytes(), rng))
        return path
    if kind == 1 and path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        rows = rng.choice(len(lines), size=min(len(lines), int(draw(rng, [1, 3, 10**6]))), replace=False)
        key, value = (
            draw(rng, list(json.loads(lines[0]))),
            draw(rng, [*VALUES.values(), "x" * 3000, ["a", "a"], [None], [1]]),
        )
        for row in rows.tolist():
            lines[row] = json.dumps(json.loads(lines[row]) | {key: value})
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        return path
    frame = pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_csv(path)
    column, change = draw(rng, frame.columns), draw(rng, list(TABLES))
    out = io.BytesIO()
    frame.with_columns(TABLES[change](pl.col(column)).alias(column)).write_parquet(out)
    path = path.with_suffix(".parquet")
    path.write_bytes(out.getvalue())
    return path


def random_value(rng: np.random.Generator) -> str:
    """What somebody may type behind a flag."""
    numbers = [
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "0.5",
        "1e-3",
        "1e308",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "10000000000",
        "9" * 400,
    ]
    texts = [
        "",
        "null",
        "true",
        "[]",
        "{}",
        "[1]",
        "[[1]]",
        "x",
        "~",
        "../x",
        "\0",
        "\ud800",
        "a: b",
        "*",
        "&a",
        "!!int 1",
        "-",
        "--",
    ]
    return str(draw(rng, numbers if rng.integers(2) else texts))


def write_case(
    folder: Path, command: list[str], then: Sequence[list[str]] = (), always: Sequence[list[str]] = ()
) -> None:
    """Write `case.json`."""
    (folder / "case.json").write_text(json.dumps({"command": command, "then": list(then), "always": list(always)}))


def probe_case(folder: Path) -> Outcome:
    """Run what `case.json` says."""

    def ask() -> Any:
        from genrec.semtok.errors import InputError

        case = json.loads((folder / "case.json").read_text())
        try:
            told = told_by(*case["command"])
        except InputError:
            answered(case["always"])
            raise
        answered([*case["then"], *case["always"]])
        return told

    return outcome_of(ask)


def answered(commands: Sequence[list[str]]) -> None:
    """Run commands that must end well."""
    from genrec.semtok.errors import InputError

    for command in commands:
        try:
            told_by(*command)
        except InputError as error:
            raise AssertionError(f"refused afterwards: {error}") from None


def probe_fit(folder: Path) -> Outcome:
    """What `genrec fit` does before it trains, by `my.yaml` and flags in `case.json`: tables, split, text vectors."""

    def ask() -> Any:
        from genrec.cli.parsing import load_config
        from genrec.cli.pipeline import data_stages, vector_stages
        from genrec.run import Run
        from genrec.stages import bring_up_to_date

        config = load_config(folder / "my.yaml", json.loads((folder / "case.json").read_text())["command"])
        run = Run(folder / "probed")
        with run.locked():
            for stage in [*data_stages(config), vector_stages(config)[0]]:
                bring_up_to_date(run, stage)
        return len(run.catalog()), len(run.split().test)

    return outcome_of(ask)


@dataclass(frozen=True)
class Case:
    """A folder that `probe` is to be asked about, with what was changed."""

    told: str
    folder: Path
    probe: Callable[[Path], Outcome]


class Inputs:
    """Draws cases over a small shop and the run that was fitted on it.

    Args:
        run: `tests/worlds/small_shop.py` made it; the shop's tables and `my.yaml` lie beside it.
        scratch: folder of the case that was drawn last.
    """

    def __init__(self, run: Path, scratch: Path) -> None:
        self.run, self.scratch = run, scratch
        self.items = [json.loads(line)["item_id"] for line in (run.parent / "items.jsonl").read_text().splitlines()]
        self.kinds = (self.tables, self.settings, self.options, self.users, self.added, self.fitted)

    def draw(self, seed: int) -> Case:
        """The case of a seed."""
        rng = np.random.default_rng(seed)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        weights = np.array([8, 8, 4, 6, 4, 1])
        kind = self.kinds[int(rng.choice(len(self.kinds), p=weights / weights.sum()))]
        probe, told = kind(rng)
        return Case(f"{kind.__name__}, seed {seed}: {told}", self.scratch, probe)

    def _shop(self, rng: np.random.Generator | None) -> tuple[str, list[str]]:
        """Copy the shop, a table of it changed; what was changed, and the flags that name the tables."""
        flags, changed = [f"--run={self.scratch / 'run'}"], ""
        which = "" if rng is None else draw(rng, ["items", "interactions"])
        for name, file in (("items", "items.jsonl"), ("interactions", "interactions.csv")):
            path = self.scratch / file
            shutil.copy(self.run.parent / file, path)
            if rng is not None and name == which:
                path = random_table(path, rng)
                changed = path.name
            flags.append(f"--data.{name}={path}")
        shutil.copy(self.run.parent / "my.yaml", self.scratch / "my.yaml")
        return changed, flags

    def tables(self, rng: np.random.Generator) -> tuple[Callable[[Path], Outcome], str]:
        """A table of the shop."""
        changed, flags = self._shop(rng)
        if rng.integers(3) == 0:
            flags += ["--data.split=by_time"]
        write_case(self.scratch, [*flags, "--text.encoder=tfidf"])
        return probe_fit, changed

    def settings(self, rng: np.random.Generator) -> tuple[Callable[[Path], Outcome], str]:
        """The YAML file, or flags of `genrec fit`."""
        from genrec.cli.parsing import fit_parser, flags_of

        _, flags = self._shop(None)
        typed = []
        if rng.integers(2):
            typed = [f"{draw(rng, flags_of(fit_parser()))}={random_value(rng)}" for _ in range(int(rng.integers(1, 3)))]
        else:
            sound = self.run / "config.yaml" if rng.integers(2) else self.scratch / "my.yaml"
            (self.scratch / "my.yaml").write_bytes(random_bytes(sound.read_bytes(), rng))
        write_case(self.scratch, ["--text.encoder=tfidf", *flags, *typed])
        return probe_fit, " ".join(typed)[:200]

    def options(self, rng: np.random.Generator) -> tuple[Callable[[Path], Outcome], str]:
        """Flags of `genrec recommend`, conditions among them."""
        names = [
            "k",
            "ranking",
            "beams",
            "engine",
            "device",
            "exclude_seen",
            "shard_size",
            "restart",
            "verify",
            "where",
            "users",
        ]
        values = [draw(rng, list(VALUES.values())) for _ in range(3)]
        where = json.dumps(
            {
                str(draw(rng, ["price", "brand", "categories", "title", "x"])): draw(
                    rng, [*values, values, {"max": values[0]}]
                )
            }
        )
        typed = [f"--{draw(rng, names)}={random_value(rng)}" for _ in range(int(rng.integers(0, 3)))] or [
            f"--where={where}"
        ]
        write_case(self.scratch, ["recommend", str(self.run), "--k=3", f"--out={self.scratch / 'out'}", *typed])
        return probe_case, " ".join(typed)[:200]

    def users(self, rng: np.random.Generator) -> tuple[Callable[[Path], Outcome], str]:
        """A users file."""
        path = self.scratch / "users.jsonl"
        rows = [{"user_id": f"u{n}", "history": [str(draw(rng, self.items)) for _ in range(n % 4)]} for n in range(12)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = random_table(path, rng)
        write_case(
            self.scratch, ["recommend", str(self.run), "--k=3", f"--out={self.scratch / 'out'}", f"--users={path}"]
        )
        return probe_case, path.name

    def added(self, rng: np.random.Generator) -> tuple[Callable[[Path], Outcome], str]:
        """New items; the run must answer after them, and after a refusal."""
        run, path = self.scratch / "run", self.scratch / "new.jsonl"
        shutil.copytree(self.run, run)
        rows = [json.loads(line) for line in (self.run.parent / "items.jsonl").read_text().splitlines()[:8]]
        path.write_text("".join(json.dumps(row | {"item_id": f"new {n}"}) + "\n" for n, row in enumerate(rows)))
        path = random_table(path, rng)
        after = [["inspect", str(run)], ["recommend", str(run), "--k=3", f"--out={self.scratch / 'out'}"]]
        write_case(self.scratch, ["add-items", str(run), str(path)], always=after)
        return probe_case, path.name

    def fitted(self, rng: np.random.Generator) -> tuple[Callable[[Path], Outcome], str]:
        """A table of the shop, through all of `genrec fit`."""
        changed, flags = self._shop(rng)
        write_case(self.scratch, ["fit", str(self.scratch / "my.yaml"), *SMALL, "--lm.epochs=1", *flags])
        return probe_case, changed
