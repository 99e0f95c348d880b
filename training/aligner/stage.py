"""The stage `vectors/item` of a run: text and collaborative vectors become one vector an item."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genrec.run import Run
from genrec.semtok.aligners import ALIGNERS
from genrec.semtok.aligners.config import FusionConfig
from genrec.semtok.aligners.fusion import Fusion
from genrec.semtok.aligners.saved import save_table
from genrec.sequential import BACKBONES
from genrec.sequential.aligner_inputs import cold_items
from genrec.sequential.frozen import frozen
from genrec.stages import Stage, progress_bar
from genrec.training.aligner.fit import aligned_vectors, fit_aligner
from genrec.training.loop.checkpoint import work_folder
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import AlignerTrainingConfig

NEEDS, COLLABORATIVE = ("split", "vectors/text"), "vectors/collaborative"


@dataclass(frozen=True)
class TrainedAligner:
    """An aligner that is trained together with a recommender."""

    name: str  # of `ALIGNERS`
    options: Any  # its configuration
    backbone: str  # name of the recommender's
    shape: Any  # the backbone's configuration
    training: AlignerTrainingConfig  # how the two are trained
    seed: int  # of the run
    stop_after: int | None = None  # epochs of a refit; None: the epoch is chosen on validation

    def stage(self) -> Stage:
        """The vectors, the aligner, and the recommender that it was trained with."""
        config: dict[str, Any] = {"name": self.name, "seed": self.seed, "training": self.training.facts()}
        config |= {"options": asdict(self.options), self.backbone: asdict(self.shape)}
        if self.stop_after is not None:
            config["stop_after"] = self.stop_after
        entry = ALIGNERS[self.name]
        read = {COLLABORATIVE: entry.reads_collaborative, "vectors/users": entry.reads_users}
        needs = (*NEEDS, *(folder for folder, is_read in read.items() if is_read))
        return Stage("vectors/item", config, needs, self._make)

    def _make(self, run: Run, folder: Path) -> None:
        inputs = run.aligner_inputs()
        with work_folder(folder) as work, progress_bar("aligned item vectors", "step") as progress:
            model = fit_aligner(
                self.name,
                self.options,
                inputs,
                run.split(),
                lambda: BACKBONES[self.backbone].build(self.shape),
                replace(self.training, seed=self.training.seed + self.seed),
                FitContext(work, run.note, progress, self.stop_after),
                exclude_seen=run.exclude_seen,
            )
            save_table(model.items, folder)
            frozen(model, cold_items(inputs)).save(folder)
            source = f"{self.name}({run.text_vectors().source}, {self.backbone})"
            aligned_vectors(model.items, inputs, source).save(folder / "item.safetensors")


def fusion_stage(config: FusionConfig) -> Stage:
    """The aligner that needs no training."""
    needs = NEEDS if config.method == "text" else (*NEEDS, COLLABORATIVE)
    return Stage("vectors/item", asdict(config), needs, partial(_fuse, config))


def _fuse(config: FusionConfig, run: Run, folder: Path) -> None:
    text, collaborative = run.text_vectors(), None if config.method == "text" else run.collaborative_vectors()
    counts = np.bincount(run.split().train.values, minlength=len(text))
    fusion = Fusion.fit(text, collaborative, counts, config)
    fusion.save(folder)
    fusion.transform(text, collaborative, counts).save(folder / "item.safetensors")
