"""`genrec compare`: every chosen aligner through every chosen backbone by every seed, each cell in a folder of its own.

    catalog ─┬─ vectors/text ───────────────┬─ cells/NAME-BACKBONE-SEED ─ report
             └─ split ─ cells/plain-sasrec-SEED ┘

A cell's manifest holds a hash of its configuration and of what it read, so a comparison that is called again, with more
aligners or seeds too, trains what is missing alone; a cell that was interrupted goes on from its last epoch. The table
is written anew after each seed: RUN/table.md (with times, from log.jsonl), figures and pictures in RUN/report.

Cold items, which no training history has, come after training: they are no classes of the softmax, and are ranked by
the vectors that their words give them (`ItemTable.from_text`). A table that knows no words cannot rank them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from genrec.cli.compare_config import LIGHTGCN, PLAIN, CompareConfig
from genrec.cli.compare_report import Result, table, write_comparison
from genrec.cli.config import FitConfig
from genrec.cli.pipeline import Pipeline
from genrec.cli.stages import Stage, log_rows, progress_bar
from genrec.data.cases import Split
from genrec.evaluation.tables import rank
from genrec.semtok.aligners import ALIGNERS
from genrec.semtok.aligners.base import AlignerInputs, IdTable, ItemTable
from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders import load_encoder
from genrec.semtok.folders import read_json, write_atomic
from genrec.semtok.vectors import ItemVectors
from genrec.sequential import BACKBONES
from genrec.sequential.base import ColdItems, SequentialModel
from genrec.sequential.lightgcn import LightGcn, user_item_matrix
from genrec.tasks.preference_texts import preference_vectors
from genrec.training.aligner.fit import aligner_inputs
from genrec.training.loop.checkpoint import remove_work
from genrec.training.loop.epochs import FitContext
from genrec.training.run_folder import locked, write_settings
from genrec.training.sequential.fit import fit_sequential
from genrec.training.sequential.lightgcn_fit import fit_lightgcn


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        name: of the table's line.
        backbone: its name.
        seed: of the training.
    """

    name: str
    backbone: str
    seed: int

    @property
    def folder(self) -> str:
        """Its place in the run."""
        return f"cells/{self.name}-{self.backbone}-{self.seed}"


class Comparison(Pipeline):
    """The cells of one configuration; catalogue, split and text vectors are stages of `genrec fit`."""

    def __init__(self, config: CompareConfig) -> None:
        super().__init__(FitConfig(run=config.run, data=config.data, text=config.text, seed=config.split_seed))
        self.comparison = config

    def compare(self) -> None:
        """Train what is missing, write the table after each seed.

        Raises:
            InputError: bad input, another process works on the run, or its folder is of something else.
        """
        with locked(self.run):
            write_settings(self.run, self.comparison.to_yaml(), "compare")
            for stage in self._stages_before_lm():
                if stage.folder in ("catalog", "split", "vectors/text"):
                    self._bring_up_to_date(stage)
            users = Stage("vectors/users", {}, ("catalog", "split", "vectors/text"), self._users)
            done: list[Cell] = []
            for seed in self.comparison.seeds:
                cells = self._cells(seed)
                for cell in cells:
                    if self._reads_users(cell.name):
                        self._bring_up_to_date(users)
                    self._bring_up_to_date(self._stage(cell))
                done += cells
                self._bring_up_to_date(self._report_of(done))
                write_atomic(
                    self.run / "table.md", table(read_json(self.run / "report/metrics.json"), self._costs(done))
                )

    def _reads_users(self, name: str) -> bool:
        """Whether a line's aligner looks at the users' preference texts."""
        kind, _ = self.comparison.aligner(name)
        return kind != PLAIN and ALIGNERS[kind].reads_users

    def _users(self, folder: Path) -> None:
        """Vectors of the preference text of each training history, by the items' encoder."""
        catalog, split = Catalog.load(self.run / "catalog"), Split.load(self.run / "split")
        encoder = load_encoder(self.run / "vectors/text")
        vectors = preference_vectors(catalog, split.train, encoder)
        ItemVectors(vectors, encoder.name).save(folder / "users.safetensors")

    def _cells(self, seed: int) -> list[Cell]:
        """The cells of a seed, the plain model that others look at first."""
        config = self.comparison
        backbones = list(config.backbones)
        if config.lines != [PLAIN] and config.collaborative not in backbones:
            backbones.insert(0, config.collaborative)
        plain = sorted(backbones, key=lambda backbone: backbone != config.collaborative)
        cells = [Cell(PLAIN, backbone, seed) for backbone in plain]
        return cells + [
            Cell(name, backbone, seed) for backbone in config.backbones for name in config.lines if name != PLAIN
        ]

    def _stage(self, cell: Cell) -> Stage:
        config = self.comparison
        kind, options = config.aligner(cell.name)
        training = asdict(config.training_of(cell.name))
        facts: dict[str, Any] = {"aligner": kind, "backbone": cell.backbone, "seed": cell.seed}
        facts |= {"shape": asdict(config.backbone(cell.backbone)), "negatives": config.negatives}
        facts |= {"training": {name: one for name, one in training.items() if name != "seed"}}
        needs = ["split", "vectors/text"]
        if kind != PLAIN:
            facts["options"] = asdict(options)
            needs.append(self._collaborative_cell(cell.seed).folder)
        if self._reads_users(cell.name):
            needs.append("vectors/users")
        return Stage(cell.folder, facts, tuple(needs), lambda folder: self._train(cell, folder))

    def _collaborative_cell(self, seed: int) -> Cell:
        return Cell(PLAIN, self.comparison.collaborative, seed)

    def _train(self, cell: Cell, folder: Path) -> None:
        """One cell: its weights, the item vectors that it ranks with, its lists for the test cases, its log."""
        split, text = Split.load(self.run / "split"), ItemVectors.load(self.run / "vectors/text/text.safetensors")
        exclude_seen = read_json(self.run / "split/data.json")["exclude_seen"]
        untaken = np.flatnonzero(np.bincount(split.train.values, minlength=len(text)) == 0)
        cold = ColdItems(untaken, text.values[untaken])
        work = folder / "work"
        work.mkdir(exist_ok=True)
        config = replace(self.comparison.training_of(cell.name), seed=cell.seed)
        fit: Callable[..., Any] = fit_lightgcn if cell.backbone == LIGHTGCN else fit_sequential
        with progress_bar(cell.folder, "step") as progress:
            model = fit(
                self._model_maker(cell, split, text),
                split,
                config,
                FitContext(work, self._note, progress),
                exclude_seen=exclude_seen,
                negatives=self.comparison.negatives,
                cold=cold,
                stage=cell.folder,
            )
        lists = rank(model.scorer(cold), split.test.histories, exclude_seen=exclude_seen)
        model.save(folder)
        ItemVectors(model.ranking_vectors(cold), f"{cell.name}-{cell.backbone}").save(folder / "item.safetensors")
        write_atomic(folder / "lists.safetensors", save({"rows": lists}))
        (work / "training.json").rename(folder / "training.json")
        remove_work(work)

    def _model_maker(
        self, cell: Cell, split: Split, text: ItemVectors
    ) -> Callable[[], SequentialModel] | Callable[[], LightGcn]:
        """A function that builds the cell's untrained model under the generator's seed of the moment."""
        shape = self.comparison.backbone(cell.backbone)
        kind, options = self.comparison.aligner(cell.name)
        inputs = None if kind == PLAIN else self._inputs(cell, split, text)

        def items() -> ItemTable:
            if inputs is None:
                return IdTable(len(text), shape.width)
            return ALIGNERS[kind].table(inputs, shape.width, options)

        if cell.backbone == LIGHTGCN:
            taken = user_item_matrix(split.train, len(text))
            return lambda: LightGcn(items(), taken, shape)
        return lambda: SequentialModel(items(), BACKBONES[cell.backbone].build(shape))

    def _inputs(self, cell: Cell, split: Split, text: ItemVectors) -> AlignerInputs:
        plain = ItemVectors.load(self.run / self._collaborative_cell(cell.seed).folder / "item.safetensors")
        users = None
        if self._reads_users(cell.name):
            users = ItemVectors.load(self.run / "vectors/users/users.safetensors").values
        return aligner_inputs(text, plain, split.train, users)

    def _report_of(self, cells: Sequence[Cell]) -> Stage:
        needs = ("catalog", "split", "vectors/text", *(cell.folder for cell in cells))
        config = {"cells": [cell.folder for cell in cells], "reference": self.comparison.reference}
        return Stage("report", config, needs, lambda folder: self._write_report(cells, folder))

    def _write_report(self, cells: Sequence[Cell], folder: Path) -> None:
        results = [
            Result(
                cell.name,
                cell.backbone,
                cell.seed,
                load_file(self.run / cell.folder / "lists.safetensors")["rows"],
                ItemVectors.load(self.run / cell.folder / "item.safetensors"),
            )
            for cell in cells
        ]
        text = ItemVectors.load(self.run / "vectors/text/text.safetensors")
        exclude_seen = read_json(self.run / "split/data.json")["exclude_seen"]
        split, catalog = Split.load(self.run / "split"), Catalog.load(self.run / "catalog")
        reference = self.comparison.reference
        write_comparison(folder, results, split, catalog, text, exclude_seen=exclude_seen, reference=reference)

    def _costs(self, cells: Sequence[Cell]) -> dict[str, float]:
        """Seconds of training and validation of each line, mean over its seeds, by the log.

        Of several rows about an epoch the last counts: an interrupted cell repeats one. 0 for what the log has lost.
        """
        epochs: dict[str, dict[int, float]] = {}
        for row in log_rows(self.run):
            if "epoch" in row:
                epochs.setdefault(row["stage"], {})[row["epoch"]] = row["seconds"] + row["valid_seconds"]
        costs: dict[str, list[float]] = {}
        for cell in cells:
            costs.setdefault(f"{cell.name} {cell.backbone}", []).append(sum(epochs.get(cell.folder, {}).values()))
        return {name: sum(values) / len(values) for name, values in costs.items()}
