"""`Run`: a run's folder, opened: every file that is read of one is read here, and belongs to the run by its hashes.

    with Run.open("runs/beauty") as run:        # nobody puts folders in place while the block lasts
        catalog, ids = run.catalog(), run.semantic_ids()

    run = Run("runs/beauty")                    # for what writes to it
    with run.locked():
        ...

What is read is read once. `verified` is the border: it compares a stage folder's manifest with the files beside it
(sizes and hashes) and with the folders that the stage read (its `needs`), and every accessor goes through it; JSON then
goes through a schema and arrays through the checks of the objects that hold them. Nothing of a run is executed.

`genrec add-items` puts items behind those of a sealed stage. The manifest then says so, and keeps the hash of the files
as the stage made them: stages that read it were made of these, and stay up to date. The catalogue is put in place last,
so a run has as many items as its catalogue, whatever else has more.

Shapes: N items of the catalogue, D width.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from genrec.data.cases import Split
from genrec.data.config import TimeUnit
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import MANIFEST, check_folder, finish_rename, hash_value, hold_lock, scratch_of, write_atomic
from genrec.semtok.schema import read_as, read_columns
from genrec.semtok.vectors import ItemVectors

if TYPE_CHECKING:  # torch and transformers take seconds, and many readers want the catalogue alone
    from genrec.evaluation.tables import Row
    from genrec.ranking.config import FusionWeights
    from genrec.ranking.facts import LanguageModelFacts
    from genrec.semtok.aligners.base import AlignerInputs, ItemTable
    from genrec.semtok.encoders import TextEncoder
    from genrec.semtok.quantizers import Quantizer
    from genrec.semtok.semantic_ids import SemanticIds
    from genrec.sequential.base import SequentialModel

STAGES = (
    "catalog", "split", "vectors/text", "vectors/collaborative", "vectors/users", "vectors/item", "semtok", "lm",
    "report",
)  # fmt: skip
EXTENDED = ("vectors/text", "vectors/item", "semtok", "catalog")  # what items are added to, in this order
ADDED, BEFORE = "items_added", "files_before"  # in the inputs of such a folder's manifest
READER_WAITS, WRITER_WAITS = 60.0, 600.0  # seconds, for folders to be in place, and for readers to have opened the run
_SETTINGS = {  # by which the resolved configuration of a command is known
    "fit": {"run", "data", "lm", "ranking", "seed", "refit"},
    "compare": {"run", "data", "aligners", "backbones", "seeds"},
}
_FREE = ("run", "refit", "reuse", "topk")  # what a refit may set otherwise

_log = logging.getLogger(__name__)
Read = TypeVar("Read")


@dataclass(frozen=True)
class DataFacts:
    """What the split's stage found out about the log.

    Attributes:
        exclude_seen: lists leave out what is in the history.
        time_unit: of the log's timestamps.
    """

    exclude_seen: bool
    time_unit: TimeUnit


@dataclass(frozen=True)
class _Seen:
    """A folder as it was verified: where its manifest lay, and the hash of its files as the stage made them."""

    place: tuple[int, int, int]
    made: str
    added: tuple[str, ...]


def _once(read: Callable[[Run], Read]) -> Callable[[Run], Read]:
    """A method whose value is kept until a stage of the run is made anew."""

    @wraps(read)
    def kept(run: Run) -> Read:
        if read.__name__ not in run._values:
            run._values[read.__name__] = read(run)
        value: Read = run._values[read.__name__]
        return value

    return kept


class Run:
    """One run's folder.

    Args:
        path: the folder.
        hashes: compare the contents of files with their manifests, not their sizes alone.
    """

    def __init__(self, path: Path | str, *, hashes: bool = True) -> None:
        self.path, self.hashes = Path(path), hashes
        self._seen: dict[str, _Seen] = {}
        self._values: dict[str, Any] = {}

    def __str__(self) -> str:
        return str(self.path)

    # --- places -----------------------------------------------------------------------------------------------------

    @property
    def lm(self) -> Path:
        """The language model's folder, which transformers and vLLM open as it is."""
        return self.path / "lm"

    @property
    def topk(self) -> Path:
        """The folder of the lists."""
        return self.path / "topk"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.path / "report"

    @property
    def table(self) -> Path:
        """Of a comparison."""
        return self.path / "table.md"

    @property
    def users(self) -> Path:
        """The log's users with their whole histories, for the batch job."""
        return self.path / "split/users.parquet"

    @property
    def test_cases(self) -> Path:
        """The cases that are asked last, as a table."""
        return self.path / "split/test.parquet"

    @property
    def log(self) -> Path:
        """Where times and speeds go, one JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    # --- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path | str, *, hashes: bool = True) -> Iterator[Run]:
        """A run to read from, of one version: no folder of it is put in place while the block lasts.

        Raises:
            InputError: a stage was made of other folders than stand there, is unfinished, or lacks a file; or folders
                have been under way for longer than `READER_WAITS`.
        """
        run = cls(path, hashes=hashes)
        with run._directory_lock(fcntl.LOCK_SH, READER_WAITS):
            for name in STAGES[:-1]:
                if (run.path / name).is_dir():
                    run._check_needs(name, check_folder(run.path / name))
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
        ready = [name for name in EXTENDED if is_extended(scratch_of(self.path / name))]
        cells = {f"cells/{left.name[1:-4]}" for kind in ("new", "old") for left in self.path.glob(f"cells/.*.{kind}")}
        with self.placing():
            for name in ready if "catalog" not in ready else ():
                shutil.rmtree(scratch_of(self.path / name))
            for name in (*STAGES, *sorted(cells)):
                finish_rename(self.path / name)
        return "catalog" in ready

    # --- the border -------------------------------------------------------------------------------------------------

    def verified(self, name: str) -> Path:
        """A stage's folder, once its files are those of its manifest and it was made of the folders that stand there.

        Raises:
            InputError: it is unfinished, damaged, made of other folders, or made anew since the run was opened.
        """
        folder = self.path / name
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
            self._seen[name] = _Seen(place, made, tuple(manifest["inputs"].get(ADDED, ())))
        return folder

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
            try:
                manifest = check_folder(self.path / name)
            except InputError as error:
                raise InputError(f"{error}; genrec fit finishes the run") from None
            self._check_needs(name, manifest)

    def files(self, names: Collection[str]) -> dict[str, Any]:
        """The files of some stages with their sizes and hashes, by the manifests."""
        return {name: check_folder(self.verified(name))["files"] for name in names}

    # --- what the stages made ---------------------------------------------------------------------------------------

    @_once
    def catalog(self) -> Catalog:
        """The items, N."""
        return Catalog.load(self.verified("catalog"))

    @_once
    def split(self) -> Split:
        """Training histories and cases of evaluation, of catalogue rows."""
        folder = self.verified("split")
        split = Split.load(folder)
        rows = [split.train.values, split.cold_items]
        rows += [part for cases in (split.valid, split.test) for part in (cases.histories.values, cases.targets)]
        if any(len(part) and not 0 <= part.min() <= part.max() < len(self.catalog()) for part in rows):
            raise InputError(f"{folder}: names rows that the catalogue does not have")
        return split

    @_once
    def _data(self) -> DataFacts:
        return read_as(self.verified("split") / "data.json", DataFacts)

    @property
    def exclude_seen(self) -> bool:
        """Whether lists leave out what is in the history; a run that was copied without its split says so too."""
        return self._data().exclude_seen if (self.path / "split").is_dir() else True

    @property
    def time_unit(self) -> TimeUnit:
        """Unit of the log's timestamps."""
        return self._data().time_unit

    @_once
    def text_vectors(self) -> ItemVectors:
        """What the encoder made of the items' texts, [N, D_t]."""
        return self._grown("vectors/text", ItemVectors.load(self.verified("vectors/text") / "text.safetensors"))

    @_once
    def collaborative_vectors(self) -> ItemVectors:
        """Of the items that the run was fitted on, [fitted_items, D_c]."""
        folder = self.verified("vectors/collaborative")
        vectors = ItemVectors.load(folder / "collaborative.safetensors")
        if len(vectors) > len(self.catalog()):
            raise InputError(f"{folder}: vectors of {len(vectors)} items, the catalogue has {len(self.catalog())}")
        return vectors

    @property
    def fitted_items(self) -> int:
        """How many items the run was fitted on: the first rows of its catalogue."""
        return len(self.collaborative_vectors())

    @_once
    def user_vectors(self) -> ItemVectors | None:
        """Of the preference text of each training history, [U, D_t]; None where no aligner looks at them."""
        if not (self.path / "vectors/users").is_dir():
            return None
        return ItemVectors.load(self.verified("vectors/users") / "users.safetensors")

    @_once
    def item_vectors(self) -> ItemVectors:
        """What was quantised, [N, D]."""
        return self._grown("vectors/item", ItemVectors.load(self.verified("vectors/item") / "item.safetensors"))

    def _grown(self, name: str, vectors: ItemVectors) -> ItemVectors:
        """The vectors of the catalogue's items; raises InputError where there are none for some."""
        self._check_rows(name, len(vectors))
        n = len(self.catalog())
        return vectors if len(vectors) == n else ItemVectors(vectors.values[:n], vectors.source)

    def _check_rows(self, name: str, rows: int) -> None:
        """Raise InputError where a part has other items than the catalogue, or not those that are being added."""
        n = len(self.catalog())
        if rows == n:
            return
        ours, theirs = self._seen["catalog"].added, self._seen[name].added
        if rows < n or len(theirs) <= len(ours) or theirs[: len(ours)] != ours:
            cure = "run genrec fit, or repeat the interrupted add-items"
            raise InputError(f"{self}: {name} has {rows} items, the catalogue {n}; {cure}")

    @_once
    def semantic_ids(self) -> SemanticIds:
        """The code of every item."""
        from genrec.semtok.semantic_ids import SemanticIds

        ids, catalog = SemanticIds.load(self.verified("semtok")), self.catalog()
        self._check_rows("semtok", len(ids))
        if ids.item_ids[: len(catalog)] != catalog.item_ids:
            cure = "run genrec fit, or repeat the interrupted add-items"
            raise InputError(f"{self}: catalogue and semantic IDs are of different items; {cure}")
        n = len(catalog)
        return ids if len(ids) == n else SemanticIds(ids.item_ids[:n], ids.codes[:n], ids.sizes)

    @_once
    def quantizer(self) -> Quantizer:
        """What gives new items their codes."""
        from genrec.semtok.quantizers import load_quantizer

        return load_quantizer(self.verified("semtok"))

    @_once
    def quality(self) -> dict[str, Any]:
        """Figures of the semantic IDs."""
        return read_as(self.verified("semtok") / "quality.json", dict[str, Any])

    @_once
    def text_encoder(self) -> TextEncoder:
        """What made the text vectors, for new items and for queries."""
        from genrec.semtok.encoders import load_encoder

        return load_encoder(self.verified("vectors/text"))

    @_once
    def sequential(self) -> SequentialModel | None:
        """The recommender that the run's aligner was trained with, over N items; None where there is none."""
        from genrec.sequential.frozen import extended, load_frozen

        model = load_frozen(self.verified("vectors/item"))
        if model is None:
            return None
        self._check_rows("vectors/item", model.items.n_items)
        n = len(self.catalog())
        return model if model.items.n_items == n else extended(model, n, model.item_vectors[:0])

    @_once
    def aligner_inputs(self) -> AlignerInputs:
        """What the run's aligner read, of the items that the run was fitted on."""
        from genrec.sequential.aligner_inputs import aligner_inputs

        collaborative, text, users = self.collaborative_vectors(), self.text_vectors(), self.user_vectors()
        text = ItemVectors(text.values[: len(collaborative)], text.source)
        return aligner_inputs(text, collaborative, self.split().train, None if users is None else users.values)

    @_once
    def aligner(self) -> ItemTable | None:
        """The trained aligner; None for fusion, which is not trained (see `Fusion.load`)."""
        from genrec.semtok.aligners.saved import load_table

        folder = self.verified("vectors/item")
        facts = read_as(folder / "aligner.json", dict[str, Any])
        return None if facts.get("name", "fusion") == "fusion" else load_table(folder, self.aligner_inputs())

    @_once
    def language_model(self) -> LanguageModelFacts:
        """How the language model was trained to be read: its score space, and how lists are made.

        Raises:
            InputError: besides the usual, the run was fitted by an earlier version of genrec.
        """
        from genrec.ranking.facts import LanguageModelFacts

        folder = self.verified("lm")
        if (folder / "heads/neighbours.safetensors").is_file() or b"dense_share" in _bytes(folder / "genrec.json"):
            raise InputError(
                f"{folder}: of an earlier version of genrec, whose rankings had other names; genrec fit with the "
                "configuration of the run makes it anew"
            )
        return read_as(folder / "genrec.json", LanguageModelFacts)

    @_once
    def metrics(self) -> list[Row]:
        """The figures of the report."""
        return cast("list[Row]", read_as(self.verified("report") / "metrics.json", list[dict[str, Any]]))

    @_once
    def ranks(self) -> dict[str, NDArray[np.uint8]]:
        """Each model's rank of each test case's target, 0 where it is not among the first, by the report."""
        return read_columns(self.verified("report") / "ranks.safetensors", "uint8", len(self.split().test))

    # --- settings and log -------------------------------------------------------------------------------------------

    def settings(self, command: str = "fit") -> dict[str, Any]:
        """The resolved configuration that `genrec fit` or `genrec compare` wrote into the run."""
        return read_settings(self.config, command)

    def write_settings(self, text: str, command: str = "fit") -> None:
        """Write the resolved configuration, where it is another than before.

        Raises:
            InputError: a `config.yaml` of somebody's own, or of the other command, would be lost.
        """
        if self.config.is_file():
            self.settings(command)
            if self.config.read_text(encoding="utf-8") == text:
                return
        write_atomic(self.config, text)

    @property
    def selection_run(self) -> Run | None:
        """Of a refit, the run that chose its epochs and fusion weights."""
        refit = self.settings()["refit"]
        return None if refit is None else Run(refit)

    def check_same_settings(self, config: Mapping[str, Any]) -> None:
        """Refuse a refit of other settings than this run's, whose choices would mean nothing.

        Args:
            config: the resolved configuration of the refit.

        Raises:
            InputError: no finished run, no settings in it, or the first section that differs.
        """
        if not (self.report / "metrics.json").is_file():
            raise InputError(f"--refit {self}: not a finished run of genrec fit")
        before = self.settings()
        other = other_section(before, config, _FREE)
        if other is not None:
            raise InputError(f"--refit {self}: its {other} settings are others; give the refit the same configuration")
        if before.get("refit") is not None:
            raise InputError(f"--refit {self}: is a refit itself and chose nothing")

    def training_log(self, name: str) -> list[dict[str, Any]]:
        """A trained stage's rows about its epochs; none where nothing was trained."""
        file = self.verified(name) / "training.json"
        return read_as(file, list[dict[str, Any]]) if file.is_file() else []

    def chosen_epochs(self, name: str) -> int:
        """How many epochs the chosen weights of a trained stage had been trained for."""
        rows = self.training_log(name)
        if not rows:
            raise InputError(f"{self.path / name}/training.json: no such file, or no epoch in it")
        return best_epoch(rows) + 1

    def chosen_weights(self) -> FusionWeights:
        """The fusion weights that the run ended with."""
        return self.language_model().ranking.fusion_weights

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

    # --- added items ------------------------------------------------------------------------------------------------

    def added(self) -> list[str]:
        """Hashes of the tables whose items were added, oldest first, by the catalogue."""
        return _added(self.path / "catalog")

    @property
    def has_added_items(self) -> bool:
        """Whether items were added: made again, the stages would forget them and their published IDs."""
        return any(is_extended(self.path / name) for name in EXTENDED)


def read_settings(path: Path, command: str = "fit") -> dict[str, Any]:
    """The resolved configuration of a command.

    Raises:
        InputError: no such file, or another one.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict) or not _SETTINGS[command] <= value.keys():
        raise InputError(f"{path}: not the resolved configuration of a run of genrec {command}")
    return value


def other_section(one: Mapping[str, Any], other: Mapping[str, Any], free: Collection[str]) -> str | None:
    """The first section in which two resolved configurations differ, but for the free ones."""
    return next((name for name in other if name not in free and one.get(name) != other[name]), None)


def best_epoch(rows: list[dict[str, Any]]) -> int:
    """The epoch whose weights were kept: the first of equals, as in training."""
    name = "selection" if "selection" in rows[0] else "valid_recall@10"
    return int(max(rows, key=lambda row: row[name])["epoch"])


def files_hash(folder: Path) -> str:
    """Hash of a sealed folder's files as its stage made them; raises InputError for an unfinished one."""
    return _made(check_folder(folder))


def is_extended(folder: Path) -> bool:
    """Whether items were added to a sealed folder."""
    return bool(_added(folder))


def _added(folder: Path) -> list[str]:
    if not (folder / MANIFEST).is_file():
        return []
    inputs = read_as(folder / MANIFEST, dict[str, Any]).get("inputs", {})
    return list(inputs.get(ADDED, ())) if isinstance(inputs, dict) else []


def _made(manifest: Mapping[str, Any]) -> str:
    return str(manifest["inputs"].get(BEFORE) or hash_value(manifest["files"]))


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


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
