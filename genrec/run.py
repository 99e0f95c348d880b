"""`Run`: a run, opened: each part of it as the object that it is, read once and checked.

    with Run.open("runs/beauty") as run:        # nobody puts folders in place while the block lasts
        catalog, ids = run.catalog(), run.semantic_ids()

    run = Run("runs/beauty")                    # for what writes to it
    with run.locked():
        ...

Every accessor passes the border of `genrec.run_folder`; JSON then goes through a schema, and arrays through the checks
of the objects that hold them. Nothing of a run is executed. A run has as many items as its catalogue, which add-items
puts in place last: of what has more already, being added, the first rows are read.

Shapes: N items of the catalogue, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from genrec.data.cases import Split
from genrec.data.config import TimeUnit
from genrec.data.sequences import Sequences, offsets_of
from genrec.run_folder import RunFolder
from genrec.semtok.arrays import read_arrays
from genrec.semtok.catalog import Catalog
from genrec.semtok.columns import Columns
from genrec.semtok.errors import InputError
from genrec.semtok.schema import parse_as, read_as
from genrec.semtok.tables import read_table, require_types
from genrec.semtok.vectors import ItemVectors

if TYPE_CHECKING:  # torch and transformers take seconds, and many readers want the catalogue alone
    from genrec.evaluation.tables import Row
    from genrec.ranking.config import RankingConfig
    from genrec.ranking.facts import LanguageModelFacts
    from genrec.semtok.aligners.base import AlignerInputs, ItemTable
    from genrec.semtok.encoders import TextEncoder
    from genrec.semtok.quantizers import Quantizer
    from genrec.semtok.semantic_ids import SemanticIds
    from genrec.sequential.base import SequentialModel

_FREE = ("run", "refit", "reuse", "topk", "effort")  # what a refit may set otherwise
_CURE = "run genrec fit, or repeat the interrupted add-items"
Read = TypeVar("Read")
Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | float | None  # of figures; what is greater cannot be drawn
_ROW: dict[str, Any] = dict.fromkeys(("model", "split", "slice", "metric"), str) | dict.fromkeys(("k", "n"), int)
_ROW |= {"value": int | float, "low": int | float | None, "high": int | float | None}


@dataclass(frozen=True)
class DataFacts:
    """What the split's stage found out about the log."""

    exclude_seen: bool  # lists leave out what is in the history
    time_unit: TimeUnit  # of the log's timestamps


def _once(read: Callable[[Run], Read]) -> Callable[[Run], Read]:
    """A method whose value is kept until a stage of the run is made anew."""

    @wraps(read)
    def kept(run: Run) -> Read:
        if read.__name__ not in run._values:
            run._values[read.__name__] = read(run)
        return run._values[read.__name__]

    return kept


class Run(RunFolder):
    """A run's folder with its parts (see `RunFolder` for its arguments)."""

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
        if any(rows.min(initial=0) < 0 for rows in split.rows) or split.last_row >= len(self.catalog()):
            raise InputError(f"{folder}: names rows that the catalogue does not have")
        return split

    @property
    @_once
    def exclude_seen(self) -> bool:
        """Whether lists leave out what is in the history; a run without its log has it in its settings."""
        if self.has_log:
            return read_as(self.verified("split") / "data.json", DataFacts).exclude_seen
        return self._data_settings().get("exclude_seen") is not False

    def _data_settings(self) -> dict[str, Any]:
        """The settings of what was read; none where the run's stages were made without a configuration."""
        data = self.settings()["data"] if self.config.is_file() else None
        return data if isinstance(data, dict) else {}

    @_once
    def _user_histories(self) -> pl.DataFrame:
        path = self.verified("split") / "users.parquet"
        table = read_table(path, what="the users of the run's log")
        require_types(table, path, {"user_id": pl.String, "history": pl.List(pl.String)})
        return table

    def histories(self, user_ids: Sequence[str]) -> Sequences:
        """The whole histories of some users of the log, of catalogue rows; raises InputError naming an unknown one."""
        asked = pl.DataFrame({"user_id": pl.Series(user_ids, dtype=pl.String)})
        found = asked.join(self._user_histories(), on="user_id", how="left", maintain_order="left")
        unknown = found["history"].is_null()
        if unknown.any():
            count = f"{unknown.sum():,} user{'s are' if unknown.sum() > 1 else ' is'}"
            first = f"{count} not in the run's log, first {user_ids[unknown.arg_max() or 0]!r}"
            raise InputError(f"{self}: {first}; give their histories of item ids")
        rows = self.catalog().find(found["history"].explode(empty_as_null=False))
        return Sequences(rows, offsets_of(found["history"].list.len()))

    @property
    def columns(self) -> Columns:
        """What the tables that the run was fitted on call their columns; as here, where its stages were made without a
        configuration."""
        told = self._data_settings().get("columns") or {}
        return parse_as(json.dumps(told, default=str), Columns, f"{self.config}: data.columns")

    @_once
    def text_vectors(self) -> ItemVectors:
        """What the encoder made of the items' texts, [N, D_t]."""
        return self._grown("vectors/text", ItemVectors.load(self.verified("vectors/text") / "text.safetensors"))

    @property
    def has_collaborative(self) -> bool:
        """Whether the run trained SASRec: for who reads its vectors, or as a baseline."""
        return (self.path / "vectors/collaborative").is_dir()

    @_once
    def collaborative_vectors(self) -> ItemVectors:
        """SASRec's, of the items that the run was fitted on, [fitted_items, D_c]."""
        folder = self.verified("vectors/collaborative")
        vectors = ItemVectors.load(folder / "collaborative.safetensors")
        if len(vectors) > len(self.catalog()):
            raise InputError(f"{folder}: vectors of {len(vectors)} items, the catalogue has {len(self.catalog())}")
        if self.split().last_row >= len(vectors):
            raise InputError(f"{folder}: vectors of {len(vectors)} items, the split names row {self.split().last_row}")
        return vectors

    @property
    def fitted_items(self) -> int:
        """How many items the run was fitted on: the first rows of its catalogue."""
        file, n = self.verified("semtok") / "quality.json", self.quality().get("n_items")
        if not isinstance(n, int) or not self.split().last_row < n <= len(self.catalog()):
            last = f"the split names row {self.split().last_row}, the catalogue has {len(self.catalog())} items"
            raise InputError(f"{file}: n_items is {n!r}, but {last}")
        return n

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
            raise InputError(f"{self}: {name} has {rows} items, the catalogue {n}; {_CURE}")

    @_once
    def semantic_ids(self) -> SemanticIds:
        """The code of every item."""
        from genrec.semtok.semantic_ids import SemanticIds

        ids, catalog = SemanticIds.load(self.verified("semtok")), self.catalog()
        self._check_rows("semtok", len(ids))
        if ids.item_ids[: len(catalog)] != catalog.item_ids:
            raise InputError(f"{self}: catalogue and semantic IDs are of different items; {_CURE}")
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
        file = self.verified("semtok") / "quality.json"
        quality = read_as(file, dict[str, Number | list[Number] | None])
        levels = [quality.get(name) for name in ("sizes", "codes_used", "entropy")]
        if len({len(level) if isinstance(level, list) and None not in level else -1 for level in levels} - {0}) != 1:
            raise InputError(f"{file}: sizes, codes_used and entropy are not one number a level")
        return cast("dict[str, Any]", quality)

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

        text, users = self.text_vectors(), self.user_vectors()
        collaborative = self.collaborative_vectors() if self.has_collaborative else None
        if self.has_added_items:
            text = ItemVectors(text.values[: self.fitted_items], text.source)
        return aligner_inputs(text, self.split().train, collaborative, None if users is None else users.values)

    @_once
    def aligner(self) -> ItemTable | None:
        """The trained aligner; None for fusion, which is not trained (see `Fusion.load`)."""
        from genrec.semtok.aligners.saved import load_table

        folder = self.verified("vectors/item")
        facts = read_as(folder / "aligner.json", dict[str, Any])
        return None if facts.get("name", "fusion") == "fusion" else load_table(folder, self.aligner_inputs())

    @_once
    def language_model(self) -> LanguageModelFacts:
        """How the language model is read: its score space, and how lists are made; raises InputError also for a run of
        an earlier version of genrec.
        """
        from genrec.ranking.facts import LanguageModelFacts

        folder = self.verified("lm")
        file = folder / "genrec.json"
        if (folder / "heads/neighbours.safetensors").is_file() or (
            file.is_file() and b"dense_share" in file.read_bytes()
        ):
            raise InputError(
                f"{folder}: of an earlier version of genrec, whose rankings had other names; genrec fit with the "
                "configuration of the run makes it anew"
            )
        return read_as(file, LanguageModelFacts)

    @_once
    def metrics(self) -> list[Row]:
        """The figures of the report."""
        file = self.verified("report") / "metrics.json"
        rows = read_as(file, list[dict[str, Number | str]])
        for place, row in enumerate(rows):
            ends = {row.get("low", ...) is None, row.get("high", ...) is None}
            if len(ends) > 1 or not all(isinstance(row.get(name, ...), kinds) for name, kinds in _ROW.items()):
                raise InputError(f"{file}: row {place} is no figure")
        return cast("list[Row]", rows)

    @_once
    def ranks(self) -> dict[str, NDArray[np.uint8]]:
        """By the report: each model's rank of each tested case's target, 0 where it is not among the first."""
        from genrec.evaluation.tables import tested_cases

        n_cases = len(tested_cases(self.split().test, self.fitted_items))
        file = self.verified("report") / "ranks.safetensors"
        return read_arrays(file, lambda models: dict.fromkeys(models, ("uint8", (n_cases,))), "ranks of test cases")

    # --- what a refit takes over ------------------------------------------------------------------------------------

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
        rows = read_as(file, list[dict[str, Number | str | bool]]) if file.is_file() else []
        for place, row in enumerate(rows):
            if not isinstance(row.get("epoch", 0), int) or isinstance(row.get("stage", ""), int | float | None):
                raise InputError(f"{file}: row {place} is no row of a training")
        return cast("list[dict[str, Any]]", rows)

    def chosen_epochs(self, name: str) -> int:
        """How many epochs the chosen weights of a trained stage had been trained for."""
        try:
            return best_epoch(self.training_log(name)) + 1
        except (IndexError, KeyError, TypeError):
            raise InputError(
                f"{self.path / name}/training.json: no such file, or no epochs with figures in it"
            ) from None

    def chosen_ranking(self) -> RankingConfig:
        """How the run's lists are made, with the weights that it ended with."""
        return self.language_model().ranking


def other_section(one: Mapping[str, Any], other: Mapping[str, Any], free: Collection[str]) -> str | None:
    """The first section in which two resolved configurations differ, but for the free ones.

    An option that one of them lacks is unknown to the version of genrec that wrote it, and is not compared.
    """
    return next((name for name in other if name not in free and name in one and _differ(one[name], other[name])), None)


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return any(_differ(one[name], other[name]) for name in one.keys() & other.keys())
    return bool(one != other)


def best_epoch(rows: list[dict[str, Any]]) -> int:
    """The epoch whose weights were kept: the first of equals, as in training."""
    name = "selection" if "selection" in rows[0] else "valid_recall@10"
    return int(max(rows, key=lambda row: row[name])["epoch"])
