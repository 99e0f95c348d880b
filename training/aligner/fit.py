"""Trains an aligner with a sequential model, and turns the trained table into item vectors.

    inputs = load_aligner_inputs(run)
    model = fit_aligner("faerec", FaeRecConfig(), inputs, split, lambda: SasRecBackbone(shape), training, context)
    vectors = aligned_vectors(model.items, inputs, "faerec(minilm, sasrec)")

Shapes: N items, U users, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.data.sequences import Sequences
from genrec.data.splits import Split
from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.aligners.saved import make_table
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.sequential.base import Backbone, ColdItems, SequentialModel
from genrec.sequential.lightgcn import user_item_matrix
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import SequentialTrainingConfig
from genrec.training.sequential.fit import fit_sequential


def aligner_inputs(
    text: ItemVectors, collaborative: ItemVectors, train: Sequences, user_text: NDArray[np.float32] | None = None
) -> AlignerInputs:
    """What an aligner reads, from the vectors of both modalities and the training histories.

    Args:
        text: [N, D_t].
        collaborative: [N, D_c].
        train: U histories.
        user_text: [U, D_t].
    """
    n_items, values = len(text), train.values
    matrix = user_item_matrix(train, n_items)
    counts = np.bincount(values, minlength=n_items).astype(np.int64)
    return AlignerInputs(text.values, collaborative.values, counts, matrix, user_text)


def load_aligner_inputs(run: Path) -> AlignerInputs:
    """The same from the stages of a run; items that were added after its training are left out."""
    collaborative = ItemVectors.load(run / "vectors/collaborative/collaborative.safetensors")
    text = ItemVectors.load(run / "vectors/text/text.safetensors")
    text = ItemVectors(text.values[: len(collaborative)], text.source)
    users = run / "vectors/users/users.safetensors"
    user_text = ItemVectors.load(users).values if users.is_file() else None
    return aligner_inputs(text, collaborative, Split.load(run / "split").train, user_text)


def cold_items(inputs: AlignerInputs) -> ColdItems:
    """The items without training events, with their text vectors."""
    rows = np.flatnonzero(inputs.counts == 0)
    return ColdItems(rows, inputs.text[rows])


def fit_aligner(
    name: str,
    config: Any,
    inputs: AlignerInputs,
    split: Split,
    make_backbone: Callable[[], Backbone],
    training: SequentialTrainingConfig,
    context: FitContext,
    *,
    exclude_seen: bool = True,
) -> SequentialModel:
    """An aligner's table and a backbone, trained together; the epoch with the best validation recall wins.

    Args:
        name: of `genrec.semtok.aligners.ALIGNERS`.
        config: the aligner's.
        make_backbone: builds the untrained backbone; called under the seed.
    """

    def make_model() -> SequentialModel:
        backbone = make_backbone()
        return SequentialModel(make_table(name, inputs, backbone.config.width, config), backbone)

    return fit_sequential(
        make_model,
        split,
        training,
        context,
        exclude_seen=exclude_seen,
        cold=cold_items(inputs),
        stage="aligner",
    )


@torch.inference_mode()
def aligned_vectors(table: ItemTable, inputs: AlignerInputs, source: str) -> ItemVectors:
    """The trained table as item vectors of unit length, [N, D]; cold-start items have theirs from text.

    Unit length, because a recommender stores popularity in it, which should not decide an item's codes.
    """
    vectors, cold = table().clone(), cold_items(inputs)
    if len(cold.rows):
        vectors[torch.from_numpy(cold.rows)] = table.from_text(torch.from_numpy(cold.text))
    return ItemVectors(unit_rows(vectors.numpy()), source)


@torch.inference_mode()
def vectors_from_text(table: ItemTable, text: ItemVectors) -> Tensor:
    """Vectors [M, D] of new items, from their text alone; not of unit length.

    Raises:
        InputError: the table reads no text, or the text vectors are of another width.
    """
    return table.from_text(torch.from_numpy(text.values))
