"""`Stage`: one sealed folder of a run, what decides it, and whether it stands; for `genrec fit` and `genrec compare`.

Beside it what every command that makes stages needs: the lock on a run, and a progress bar.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from semtok.errors import InputError
from semtok.folders import MANIFEST, check_folder, finish_rename, hold_lock

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


def is_current(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a sealed folder, put in place where a kill left it aside, was made from these inputs and is whole."""
    finish_rename(folder)
    return is_made_of(folder, inputs)


def is_made_of(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a sealed folder was made from these inputs and is whole; a damaged one is made again, and said so."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        return bool(check_folder(folder)["inputs"] == json.loads(json.dumps(inputs)))
    except InputError as error:
        _log.warning("%s; made again", error)
        return False


def locked(run: Path) -> AbstractContextManager[None]:
    """Only one process at a time works on a run."""
    return hold_lock(run / ".lock", f"{run}: another genrec process is working on this run")


@contextmanager
def progress_bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal only; the function takes (done, total)."""
    with tqdm(desc=name, unit=unit, delay=2, disable=None) as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield told
