"""The recommender that an aligner was trained with, as it stays in a run: a backbone, and vectors that change no more.

    frozen(model, cold).save(folder)
    sequence = load_frozen(folder)              # None where the run's vectors were not trained
    log_probability(sequence, histories)        # [B, N]

The aligner's own parts (mapper, gate, graphs) are not needed to rank: cold-start items have their vectors
from text already, and items that are added later get theirs by `extended`.

Shapes: B histories, N items, M new items, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genrec.data.sequences import Sequences
from genrec.semtok.aligners.base import FrozenTable
from genrec.sequential import BACKBONES
from genrec.sequential.base import ColdItems, SequentialModel, read_shape


def frozen(model: SequentialModel, cold: ColdItems) -> SequentialModel:
    """The trained model with the vectors of this moment, those of `cold` items by their words."""
    read, rank, _ = model.frozen_vectors(cold)
    return SequentialModel(FrozenTable(read, rank), model.backbone).eval()


def extended(model: SequentialModel, n: int, vectors: Tensor) -> SequentialModel:
    """The same for the first n items of the catalogue and new ones behind them, of vectors [M, D] by their words."""
    read, rank = (torch.cat([part[:n], vectors]) for part in (model.items(), model.items.scores()))
    return SequentialModel(FrozenTable(read, rank), model.backbone).eval()


def load_frozen(folder: Path) -> SequentialModel | None:
    """Read what `save` of a frozen model wrote, None where there is none; raises InputError where it is foreign."""
    name = next((name for name in BACKBONES if (folder / f"{name}.json").is_file()), None)
    if name is None:
        return None
    entry = BACKBONES[name]
    n_items, config = read_shape(folder, name, entry.config)
    empty = torch.zeros(n_items, config.width)
    model = SequentialModel(FrozenTable(empty, empty.clone()), entry.build(config))
    model.load_weights(folder)
    return model


def log_probability(model: SequentialModel, histories: Sequences) -> Tensor:
    """log p(next item), float32 [B, N]; after an empty history every item is as likely."""
    return torch.from_numpy(model.score(histories)).log_softmax(dim=1)
