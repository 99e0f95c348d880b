"""What an aligner reads of a run: vectors of both modalities, and who interacted with what.

Shapes: N items, U users, D_t and D_c widths.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.data.sequences import Sequences
from genrec.data.user_items import user_item_matrix
from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.vectors import ItemVectors
from genrec.sequential.base import ColdItems


def aligner_inputs(
    text: ItemVectors,
    train: Sequences,
    collaborative: ItemVectors | None = None,
    user_text: NDArray[np.float32] | None = None,
) -> AlignerInputs:
    """What an aligner reads, from vectors and the training histories.

    Args:
        text: [N, D_t].
        train: U histories.
        collaborative: [N, D_c]; None for an aligner that does not read them, and so the next.
        user_text: [U, D_t].
    """
    n_items, values = len(text), train.values
    matrix = user_item_matrix(train, n_items)
    counts = np.bincount(values, minlength=n_items).astype(np.int64)
    known = None if collaborative is None else collaborative.values
    return AlignerInputs(text.values, known, counts, matrix, user_text)


def cold_items(inputs: AlignerInputs) -> ColdItems:
    """The items without training events, with their text vectors."""
    rows = np.flatnonzero(inputs.counts == 0)
    return ColdItems(rows, inputs.text[rows])


@torch.inference_mode()
def vectors_from_text(table: ItemTable, text: ItemVectors) -> Tensor:
    """Vectors [M, D] of new items, not of unit length, from text alone; raises InputError where none is read."""
    return table.from_text(torch.from_numpy(text.values))
