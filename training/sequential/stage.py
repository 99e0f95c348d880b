"""The stage `vectors/collaborative` of a run: SASRec of free item vectors, which are what people did with the items."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from genrec.run import Run
from genrec.semtok.vectors import ItemVectors
from genrec.sequential.config import SasRecConfig
from genrec.sequential.sasrec import SasRec
from genrec.stages import Stage, progress_bar
from genrec.training.loop.checkpoint import work_folder
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import SequentialTrainingConfig
from genrec.training.sequential.fit import fit_sequential


def collaborative_stage(
    shape: SasRecConfig, training: SequentialTrainingConfig, seed: int, *, stop_after: int | None = None
) -> Stage:
    """The model and its item vectors.

    Args:
        seed: of the run.
        stop_after: epochs of a refit; None: the epoch is chosen on validation.
    """
    config: dict[str, Any] = {"sasrec": asdict(shape), "collaborative": asdict(training), "seed": seed}
    if stop_after is not None:
        config["stop_after"] = stop_after
    training = replace(training, seed=training.seed + seed)
    return Stage(
        "vectors/collaborative", config, ("catalog", "split"), partial(_collaborative, shape, training, stop_after)
    )


def _collaborative(
    shape: SasRecConfig, training: SequentialTrainingConfig, stop_after: int | None, run: Run, folder: Path
) -> None:
    n_items = len(run.catalog())
    with work_folder(folder) as work, progress_bar("collaborative vectors", "step") as progress:
        model = fit_sequential(
            lambda: SasRec(n_items, shape),
            run.split(),
            training,
            FitContext(work, run.note, progress, stop_after),
            exclude_seen=run.exclude_seen,
        )
        model.save(folder)
        ItemVectors(model.item_vectors.detach().numpy().copy(), "sasrec").save(folder / "collaborative.safetensors")
