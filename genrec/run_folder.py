"""`RunFolder`: the folder of a run: places, locks, settings and log, and the border that all reading passes.

`verified` compares a stage folder's manifest with the files beside it (sizes and hashes) and with the folders that the
stage read (its `needs`). Nobody reads a folder that is being put in place: who opens a run holds its folder shared, who
puts folders in place holds it alone, and only one process works on a run.

`genrec add-items` puts items behind those of a sealed stage. The manifest then says so, and keeps the hash of the files
as the stage made them: stages that read it were made of these, and stay up to date.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from genrec.semtok.errors import InputError
from genrec.semtok.folders import (
    MANIFEST,
    check_folder,
    finish_rename,
    hash_value,
    hold_lock,
    scratch_of,
    unlisted_files,
    write_atomic,
)
from genrec.semtok.schema import read_as

TEXT = "vectors/text"  # and in a comparison "vectors/text-…" of other encoders
STAGES = (
    "catalog", "split", TEXT, "vectors/collaborative", "vectors/users", "vectors/item", "semtok", "lm",
    "report",
)  # fmt: skip
OF_THE_LOG = ("split", "vectors/collaborative", "vectors/users", "report")  # what a run is shared without
EXTENDED = (TEXT, "vectors/item", "semtok", "catalog")  # what items are added to, in this order
ADDED, BEFORE = "items_added", "files_before"  # in the inputs of such a folder's manifest
READER_WAITS, WRITER_WAITS = 60.0, 600.0  # seconds, for folders to be in place, and for readers to have opened the run
_SETTINGS = {  # by which the resolved configuration of a command is known
    "fit": {"run", "data", "lm", "ranking", "seed", "refit"},
    "compare": {"run", "data", "aligners", "backbones", "seeds"},
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """A folder as it was verified: where its manifest lay, and the hash of its files as the stage made them."""

    place: tuple[int, int, int]
    made: str
    added: tuple[str, ...]


class RunFolder:
    """One run's folder.

    Args:
        path: the folder.
        hashes: compare the contents of files with their manifests, not their sizes alone.

    Attributes:
        config: the resolved configuration.
        log: where times and speeds go, one JSON object a line.
        lm: the language model's folder, which transformers and vLLM open as it is.
        report, topk: the folders of the report and of the lists.
        table: of a comparison.
    """

    def __init__(self, path: Path | str, *, hashes: bool = True) -> None:
        self.path, self.hashes = Path(path), hashes
        self.config, self.log, self.table = (self.path / name for name in ("config.yaml", "log.jsonl", "table.md"))
        self.lm, self.report, self.topk = (self.path / name for name in ("lm", "report", "topk"))
        self._seen: dict[str, _Seen] = {}
        self._values: dict[str, Any] = {}

    def __str__(self) -> str:
        return str(self.path)

    @property
    def users(self) -> Path:
        """The log's users with their whole histories, for the batch job; raises InputError where a run is without."""
        self._check_present("split")
        return self.path / "split/users.parquet"

    # --- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path | str, *, hashes: bool = True) -> Iterator[Self]:
        """A run to read from, of one version: no folder of it is put in place while the block lasts.

        Raises:
            InputError: a stage was made of other folders than stand there, is unfinished, or lacks a file; or folders
                have been under way for longer than `READER_WAITS`.
        """
        run = cls(path, hashes=hashes)
        if not hashes:
            _log.warning("%s: opened without comparing the contents of its files with their hashes", path)
        with run._directory_lock(fcntl.LOCK_SH, READER_WAITS):
            for name in STAGES[:-1]:
                folder = run.path / name
                if folder.is_dir():
                    run._check_needs(name, check_folder(folder))
                elif (scratch_of(folder) / MANIFEST).is_file():
                    raise InputError(f"{folder}: a killed command was putting it in place; repeat that command")
            yield run

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Only one process at a time works on a run; makes its folder where there is none.

        What a killed process had ready is put in place first, and what it had not is dropped.

        Returns:
            Whether items that a killed `genrec add-items` had ready were put in place.

        Raises:
            InputError: another process works on it, or there can be no such folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self}: cannot be the folder of a run ({error.strerror})") from None
        with hold_lock(self.path / ".lock", f"{self}: another genrec process is working on this run"):
            yield self._recover()

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """While folders of the run are put in place, nobody opens it; what was read before is forgotten."""
        with self._directory_lock(fcntl.LOCK_EX, WRITER_WAITS):
            yield
        self._values.clear()
        self._seen.clear()

    @contextlib.contextmanager
    def _directory_lock(self, kind: int, seconds: float) -> Iterator[None]:
        """Hold the folder itself, shared or alone, which takes no file and no right to write; on the way out let go.

        Where the folder is none, or its file system knows no such locks, nothing is held.
        """
        try:
            place = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            yield
            return
        try:
            _wait_for_lock(place, kind, seconds, f"{self}: in use by another process for {seconds:.0f} s; try again")
            yield
        finally:
            os.close(place)

    def _recover(self) -> bool:
        """Finish what a killed process had sealed; of added items only where all folders were, the catalogue last."""
        ready = [name for name in EXTENDED if added_to(scratch_of(self.path / name))]
        cells = {f"cells/{left.name[1:-4]}" for kind in ("new", "old") for left in self.path.glob(f"cells/.*.{kind}")}
        catalog_was_under_way = (self.path / ".catalog.old").exists()
        with self.placing():
            for name in ready if "catalog" not in ready else ():
                shutil.rmtree(scratch_of(self.path / name))
            for name in (*STAGES, *sorted(cells)):
                finish_rename(self.path / name)
        return "catalog" in ready or catalog_was_under_way

    # --- the border -------------------------------------------------------------------------------------------------

    def verified(self, name: str) -> Path:
        """A stage's folder, once its files are those of its manifest and it was made of the folders that stand there;
        raises InputError where it is unfinished, damaged, made of others, or made anew since the run was opened.
        """
        folder = self.path / name
        self._check_present(name)
        place = _place_of(folder / MANIFEST)
        seen = self._seen.get(name)
        if seen is None or seen.place != place:
            manifest = check_folder(folder)
            made = _made(manifest)
            if seen is not None and seen.made != made:
                raise InputError(f"{folder}: was made anew since the run was opened; open it again")
            self._check_needs(name, manifest)
            if self.hashes:
                check_folder(folder, hashes=True)
                if other := unlisted_files(folder, manifest):
                    raise InputError(f"{folder / other[0]}: is no file of this stage by its {MANIFEST}; move it away")
            self._seen[name] = _Seen(place, made, tuple(manifest["inputs"].get(ADDED, ())))
        return folder

    @property
    def has_log(self) -> bool:
        """Whether the run has the log that it was fitted on; it may be shared without."""
        return (self.path / "split").is_dir()

    def _check_present(self, name: str) -> None:
        """Raise InputError where a folder was left out when the run was shared."""
        if (
            name in OF_THE_LOG
            and not self.has_log
            and not (self.path / name).is_dir()
            and (self.lm / MANIFEST).is_file()
        ):
            raise InputError(
                f"{self}: is without its log (there is no {name}), as runs are shared: it recommends for histories of "
                "item ids; it knows no users, cannot be evaluated and takes no new items"
            )

    def _check_needs(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Raise InputError where a stage is another's, or was made of folders that are not those of the run.

        A folder that is not there cannot be compared: a run may be copied without those that nobody reads any more.
        """
        inputs = manifest["inputs"]
        if inputs.get("stage") != name:
            raise InputError(f"{self.path / name}: is the folder of another stage ({inputs.get('stage')})")
        for read, made in inputs.get("needs", {}).items():
            if (self.path / read).is_dir() and files_hash(self.path / read) != made:
                raise InputError(f"{self}: {name} was made of another {read}; genrec fit finishes the run")

    def check_finished(self, names: Collection[str]) -> None:
        """Raise InputError where one of these stages has not been made yet from what the stages before it hold now."""
        for name in names:
            self._check_present(name)
            try:
                manifest = check_folder(self.path / name)
            except InputError as error:
                raise InputError(f"{error}; genrec fit finishes the run") from None
            self._check_needs(name, manifest)

    def made_from(self, name: str) -> dict[str, Any]:
        """What decided a stage's bytes, by its manifest."""
        return check_folder(self.verified(name))["inputs"]

    def made_with(self, name: str) -> dict[str, Any]:
        """Versions of the libraries that made a stage, by its manifest."""
        libraries = check_folder(self.verified(name)).get("libraries")
        return libraries if isinstance(libraries, dict) else {}

    def files(self, names: Collection[str]) -> dict[str, Any]:
        """The files of some stages with their sizes and hashes, by the manifests."""
        return {name: check_folder(self.verified(name))["files"] for name in names}

    # --- settings and log -------------------------------------------------------------------------------------------

    def settings(self, command: str = "fit") -> dict[str, Any]:
        """The resolved configuration that `genrec fit` or `genrec compare` wrote into the run."""
        return read_settings(self.config, command)

    def write_settings(self, text: str, command: str = "fit") -> None:
        """Write the resolved configuration, where it is another than before; raises InputError where somebody's own, or
        that of another command, would be lost.
        """
        if self.config.is_file():
            self.settings(command)
            if self.config.read_text(encoding="utf-8") == text:
                return
        write_atomic(self.config, text)

    def note(self, row: Mapping[str, Any]) -> None:
        """Add a row to the run's log, and tell the person."""
        with open(self.log, "a", encoding="utf-8") as out:
            out.write(json.dumps(dict(row)) + "\n")
        if row.get("event") == "done":
            _log.info("%s: %.1f s", row["stage"], row["seconds"])
        elif "epoch" in row:
            figures = {name: value for name, value in row.items() if name not in ("stage", "epoch")}
            told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            _log.info("%s, epoch %d: %s", row["stage"], row["epoch"] + 1, told)

    def log_rows(self) -> list[dict[str, Any]]:
        """The rows of the log. A kill or a full disk can cut one, and that costs its times, not the figures."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else ()
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                _log.warning("%s: a row that was cut is left out", self.log)
        return rows

    def epoch_seconds(self) -> dict[str, float]:
        """Seconds of training and validation of each stage with epochs, by the log.

        Of several rows about an epoch the last counts: an interrupted stage repeats one.
        """
        epochs: dict[str, dict[int, float]] = {}
        for row in self.log_rows():
            if "epoch" in row and "seconds" in row:
                epochs.setdefault(row["stage"], {})[row["epoch"]] = row["seconds"] + row.get("valid_seconds", 0.0)
        return {stage: sum(seconds.values()) for stage, seconds in epochs.items()}

    # --- added items ------------------------------------------------------------------------------------------------

    def added(self) -> list[str]:
        """Hashes of the tables whose items were added, oldest first, by the catalogue."""
        return added_to(self.path / "catalog")

    @property
    def has_added_items(self) -> bool:
        """Whether items were added: made again, the stages would forget them and their published IDs."""
        return any(added_to(self.path / name) for name in EXTENDED)


def read_settings(path: Path, command: str = "fit") -> dict[str, Any]:
    """The resolved configuration of a command; raises InputError where there is none, or another's."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict) or not _SETTINGS[command] <= value.keys():
        raise InputError(f"{path}: not the resolved configuration of a run of genrec {command}")
    return value


def files_hash(folder: Path) -> str:
    """Hash of a sealed folder's files as its stage made them; raises InputError for an unfinished one."""
    return _made(check_folder(folder))


def added_to(folder: Path) -> list[str]:
    """Hashes of the tables whose items were added to a sealed folder, oldest first; none where it is none."""
    if not (folder / MANIFEST).is_file():
        return []
    inputs = read_as(folder / MANIFEST, dict[str, Any]).get("inputs", {})
    return list(inputs.get(ADDED, ())) if isinstance(inputs, dict) else []


def _made(manifest: Mapping[str, Any]) -> str:
    return str(manifest["inputs"].get(BEFORE) or hash_value(manifest["files"]))


def _place_of(file: Path) -> tuple[int, int, int]:
    """What is another once a file was replaced."""
    if not file.is_file():
        return (0, 0, 0)
    facts = file.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _wait_for_lock(place: int, kind: int, seconds: float, refusal: str) -> None:
    """Lock an open folder; where its file system knows no such locks, go on without."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(place, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise InputError(refusal) from None
            time.sleep(0.02)
        except OSError:
            return
        else:
            return
