"""Trains an aligner with a sequential model, and turns the trained table into item vectors.

    inputs = run.aligner_inputs()
    model = fit_aligner("faerec", FaeRecConfig(), inputs, split, lambda: SasRecBackbone(shape), training, context)
    vectors = aligned_vectors(model.items, inputs, "faerec(minilm, sasrec)")

Shapes: N items, U users, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from genrec.data.splits import Split
from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.aligners.saved import make_table
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.sequential.aligner_inputs import cold_items
from genrec.sequential.base import Backbone, SequentialModel
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import AlignerTrainingConfig
from genrec.training.sequential.fit import fit_sequential


def fit_aligner(
    name: str,
    config: Any,
    inputs: AlignerInputs,
    split: Split,
    make_backbone: Callable[[], Backbone],
    training: AlignerTrainingConfig,
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
        text=inputs.text,
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
