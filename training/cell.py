"""`Cell`: one training of `genrec compare`: an aligner through a backbone by a seed, in a folder of its own.

Cold items, which no training history has, come after training: they are no classes of the softmax, and are ranked by
the vectors that their words give them (`ItemTable.from_text`). A table that knows no words cannot rank them.

Shapes: N items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from genrec.evaluation.comparison import RANKS, CellName
from genrec.evaluation.tables import rank, tested_cases
from genrec.run import Run
from genrec.run_folder import TEXT
from genrec.semtok.aligners import PLAIN, aligner_entry
from genrec.semtok.aligners.base import AlignerInputs, IdTable, ItemTable
from genrec.semtok.folders import write_atomic
from genrec.semtok.vectors import ItemVectors
from genrec.sequential import BACKBONES
from genrec.sequential.aligner_inputs import aligner_inputs
from genrec.sequential.base import ColdItems, SequentialModel
from genrec.stages import Stage, progress_bar
from genrec.training.loop.checkpoint import work_folder
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import AlignerTrainingConfig
from genrec.training.sequential.fit import fit_sequential


@dataclass(frozen=True)
class Cell:
    """One training."""

    name: CellName  # its line, backbone and seed
    aligner: str  # a name of `ALIGNERS`, or `plain`
    options: Any  # the aligner's configuration; of `plain` None
    shape: Any  # the backbone's configuration
    training: AlignerTrainingConfig  # how it is trained; the seed is the cell's
    negatives: int | None  # classes that the softmax samples for a batch; None: see `Softmax`
    collaborative: CellName  # the plain cell whose vectors an aligner may look at
    text: str = TEXT  # the folder of the run with the items' text vectors

    @property
    def reads_users(self) -> bool:
        """Whether the aligner looks at the users' preference texts."""
        return self.aligner != PLAIN and aligner_entry(self.aligner).reads_users

    @property
    def reads_collaborative(self) -> bool:
        """Whether the aligner looks at the plain cell's vectors."""
        return self.aligner != PLAIN and aligner_entry(self.aligner).reads_collaborative

    def stage(self) -> Stage:
        """The cell's weights, the item vectors that it ranks with, its lists for the tested cases, its log."""
        facts: dict[str, Any] = {"aligner": self.aligner, "backbone": self.name.backbone, "seed": self.name.seed}
        facts |= {"shape": asdict(self.shape), "negatives": self.negatives}
        facts |= {"training": {name: value for name, value in self.training.facts().items() if name != "seed"}}
        needs = ["split", self.text]
        if self.aligner != PLAIN:
            facts["options"] = asdict(self.options)
        if self.reads_collaborative:
            needs.append(self.collaborative.folder)
        if self.reads_users:
            needs.append("vectors/users")
        return Stage(self.name.folder, facts, tuple(needs), self._train)

    def _train(self, run: Run, folder: Path) -> None:
        split, text = run.split(), self._text(run)
        unseen = np.flatnonzero(np.bincount(split.train.values, minlength=len(text)) == 0)
        cold = ColdItems(unseen, text.values[unseen])
        with work_folder(folder) as work, progress_bar(self.name.folder, "step") as progress:
            model = fit_sequential(
                self._model_maker(run),
                split,
                replace(self.training, seed=self.name.seed),
                FitContext(work, run.note, progress),
                exclude_seen=run.exclude_seen,
                negatives=self.negatives,
                text=text.values,
                stage=self.name.folder,
            )
            histories = tested_cases(split.test, len(text)).histories
            lists = rank(model.scorer(cold), histories, exclude_seen=run.exclude_seen, k=RANKS)
            model.save(folder)
            source = f"{self.name.name}-{self.name.backbone}"
            ItemVectors(model.ranking_vectors(cold), source).save(folder / "item.safetensors")
            write_atomic(folder / "lists.safetensors", save({"rows": lists}))

    def _model_maker(self, run: Run) -> Callable[[], SequentialModel]:
        """A function that builds the untrained model under the generator's seed of the moment."""
        n_items, shape = len(run.catalog()), self.shape
        inputs = None if self.aligner == PLAIN else self._inputs(run)

        def items() -> ItemTable:
            if inputs is None:
                return IdTable(n_items, shape.width)
            return aligner_entry(self.aligner).table(inputs, shape.width, self.options)

        return lambda: SequentialModel(items(), BACKBONES[self.name.backbone].build(shape))

    def _text(self, run: Run) -> ItemVectors:
        return ItemVectors.load(run.verified(self.text) / "text.safetensors")

    def _inputs(self, run: Run) -> AlignerInputs:
        plain = None
        if self.reads_collaborative:
            plain = ItemVectors.load(run.verified(self.collaborative.folder) / "item.safetensors")
        users = run.user_vectors() if self.reads_users else None
        return aligner_inputs(self._text(run), run.split().train, plain, None if users is None else users.values)
