"""`Stage`: one sealed folder of a run, what decides it, and how it is made; the one runner of all commands.

A stage is declared where it is made: its folder, the part of the configuration that decides its bytes, the folders that
it reads, and a small function (run, scratch folder) -> files. `genrec fit`, `compare`, `evaluate` and `accelerate
launch -m genrec.training.finetune` bring their stages up to date here.
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

from genrec.run import Run
from genrec.run_folder import ADDED, BEFORE, added_to, files_hash
from genrec.semtok.errors import InputError
from genrec.semtok.folders import (
    MANIFEST,
    check_folder,
    check_replaceable,
    finish_rename,
    link_folder,
    scratch_of,
    sealed_scratch,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One folder of a run."""

    folder: str  # its place in the run
    config: Mapping[str, Any]  # JSON-able settings that decide its bytes
    needs: tuple[str, ...]  # folders it reads
    make: Callable[[Run, Path], None]  # fills the scratch folder, reading the run

    def inputs(self, run: Run) -> dict[str, Any]:
        """What decides the stage's bytes; raises InputError where a folder that it reads is unfinished."""
        needs = {name: files_hash(run.path / name) for name in self.needs}
        return {"stage": self.folder, "config": dict(self.config), "needs": needs}

    def is_current(self, run: Run) -> bool:
        """Whether the run's folder was made from these inputs and is whole."""
        return is_made_of(run.path / self.folder, self.inputs(run))


def bring_up_to_date(run: Run, stage: Stage, reuse: Run | None = None) -> None:
    """Make a stage where it is out of date.

    Args:
        reuse: another run; where it has made the stage of the same inputs, its folder is linked instead.

    Raises:
        InputError: what stands there is no folder of that stage, or one that the stage reads is unfinished.
    """
    if stage.is_current(run):
        return
    check_stage_folder(run, stage.folder)
    if reuse is None or not _linked(run, stage, reuse):
        make_stage(run, stage)


def make_stage(run: Run, stage: Stage, *, main_process: bool = True) -> None:
    """Make a stage in place of what stands there; an interrupted attempt with the same inputs goes on.

    Args:
        main_process: False in the other processes of a stage that several make together: they only fill the folder.
    """
    target, started = run.path / stage.folder, perf_counter()
    if not main_process:
        stage.make(run, scratch_of(target))
        return
    with sealed_scratch(target, stage.inputs(run), resume=True) as scratch:
        stage.make(run, scratch)
    with run.placing():
        finish_rename(target)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux counts KiB, of all stages so far
    run.note({"stage": stage.folder, "event": "done", "seconds": perf_counter() - started, "peak_mib": peak})


def is_made_of(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a sealed folder was made from these inputs and is whole; a damaged one is made again, and said so."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        made_of = check_folder(folder)["inputs"]
    except InputError as error:
        _log.warning("%s; not used", error)
        return False
    made_of = {name: value for name, value in made_of.items() if name not in (ADDED, BEFORE)}
    return bool(made_of == json.loads(json.dumps(inputs)))


def check_stage_folder(run: Run, name: str) -> None:
    """Raise InputError where a stage would replace what is no folder of that stage."""
    folder = run.path / name
    check_replaceable(folder, lambda inputs: inputs.get("stage") == name, str(folder))


def _linked(run: Run, stage: Stage, reuse: Run) -> bool:
    """Whether the run to reuse has made this stage of the same inputs; it then stands here too."""
    source = reuse.path / stage.folder
    if not is_made_of(source, stage.inputs(run)) or added_to(source):  # this run's table may lack the added items
        return False
    with run.placing():
        link_folder(source, run.path / stage.folder)
    run.note({"stage": stage.folder, "event": "linked"})
    return True


@contextmanager
def progress_bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal only; the function takes (done, total)."""
    with tqdm(desc=name, unit=unit, delay=2, disable=None) as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield told
