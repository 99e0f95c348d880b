"""`Stage`: one sealed folder of a run, what decides it, and how it is made; for `genrec fit` and `genrec compare`.

Beside it a progress bar for everything that takes long.
"""

from __future__ import annotations

import json
import logging
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm

from genrec.semtok.folders import new_folder
from genrec.training.run_folder import files_hash

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One folder of a run.

    Attributes:
        folder: its place in the run.
        config: JSON-able settings that decide its bytes.
        needs: folders it reads.
        make: fills the scratch folder.
    """

    folder: str
    config: Mapping[str, Any]
    needs: tuple[str, ...]
    make: Callable[[Path], None]

    def inputs(self, run: Path) -> dict[str, Any]:
        """What decides the stage's bytes; raises InputError where a folder that it reads is unfinished."""
        needs = {name: files_hash(run / name) for name in self.needs}
        return {"stage": self.folder, "config": dict(self.config), "needs": needs}


def make_stage(run: Path, stage: Stage, inputs: Mapping[str, Any]) -> None:
    """Make a stage in place of what stands there; an interrupted attempt with the same inputs goes on."""
    started = perf_counter()
    with new_folder(run / stage.folder, inputs, resume=True) as scratch:
        stage.make(scratch)
    note(run, done(stage.folder, started))


def done(stage: str, started: float) -> dict[str, Any]:
    """The log's row of a finished stage; memory is the most that this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux counts KiB
    return {"stage": stage, "event": "done", "seconds": perf_counter() - started, "peak_mib": peak}


def note(run: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the run's log, and tell the person."""
    with open(run / "log.jsonl", "a", encoding="utf-8") as out:
        out.write(json.dumps(dict(row)) + "\n")
    if row.get("event") == "done":
        _log.info("%s: %.1f s", row["stage"], row["seconds"])
    elif "epoch" in row:
        figures = {name: value for name, value in row.items() if name not in ("stage", "epoch")}
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        _log.info("%s, epoch %d: %s", row["stage"], row["epoch"] + 1, told)


def log_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of the run's log. A kill or a full disk can cut one, and that costs its times, not the figures."""
    log, rows = run / "log.jsonl", []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            _log.warning("%s: a row that was cut is left out", log)
    return rows


@contextmanager
def progress_bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal only; the function takes (done, total)."""
    with tqdm(desc=name, unit=unit, delay=2, disable=None) as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield told
