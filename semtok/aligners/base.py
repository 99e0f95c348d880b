"""What an aligner reads, and what every aligner is: a table of item vectors that a recommender trains through.

A sequential model reads histories as rows of the table and scores items with it; whatever the aligner adds to the
objective comes from `loss`. After training, the table's rows are `ItemVectors`, ready to be quantised.

Shapes: N items, U users, D_t and D_c widths of text and collaborative vectors, D width of the table, M rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from genrec.semtok.aligners.principal_axes import mean_and_scale
from genrec.semtok.errors import InputError


@dataclass(frozen=True)
class AlignerInputs:
    """Everything an aligner may look at; all of it from training histories and item texts."""

    text: NDArray[np.float32]  # [N, D_t]
    # [N, D_c], rows of items without training interactions mean nothing; None where no aligner asks for them
    collaborative: NDArray[np.float32] | None
    counts: NDArray[np.int64]  # [N], training interactions of each item; 0 marks a cold-start item
    user_item: csr_array  # [U, N], 1 where a user interacted with an item in training
    # [U, D_t], vectors of the users' preference texts; None where no aligner asks for them
    user_text: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.text) == len(self.counts) == self.user_item.shape[1]:
            raise InputError(
                f"aligner: {len(self.text)} text vectors, {len(self.counts)} counts and {self.user_item.shape[1]} "
                "columns of the interaction matrix"
            )
        if self.collaborative is not None and len(self.collaborative) != len(self.text):
            raise InputError(f"aligner: {len(self.collaborative)} collaborative vectors for {len(self.text)} items")
        if self.user_text is not None and len(self.user_text) != self.user_item.shape[0]:
            raise InputError(f"aligner: {len(self.user_text)} user texts for {self.user_item.shape[0]} users")


class ItemTable(nn.Module):
    """Item vectors [N, D] that can be trained.

    Attributes:
        n_items: N.
        width: D.
        aligner: its name in the registry and its configuration; set by `genrec.semtok.aligners.saved.make_table`.
    """

    n_items: int
    width: int
    aligner: tuple[str, Any]

    def forward(self) -> Tensor:
        """The vectors [N, D], with gradient: what histories are read with, trained against, and quantised."""
        raise NotImplementedError

    def at(self, rows: Tensor) -> Tensor:
        """The vectors [M, D] of some rows int64 [M], with gradient; here by way of all of them."""
        return self()[rows]

    def scores(self) -> Tensor:
        """The vectors [N, D] that items are ranked with."""
        return self()

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        """What alignment adds to the objective.

        Args:
            rows: int64 [M], distinct items of the batch.
            epoch: epochs done, with the fraction of the running one.

        Returns:
            A scalar.
        """
        return torch.zeros((), device=rows.device)

    def from_text(self, text: Tensor) -> Tensor:
        """Vectors [M, D] of cold-start items from text vectors [M, D_t] alone; InputError where none are read."""
        raise InputError(f"{type(self).__name__} has no vectors for cold-start items")


class TextReadingTable(ItemTable):
    """A table that is made of frozen text vectors too, which layers read centred and scaled.

    Attributes:
        name: begins the message where text vectors are of another width.
        config: the aligner's.
        standard: [N, D_t], the text as layers read it.
        counts: [N], see `AlignerInputs`.
    """

    name: ClassVar[str]
    text_mean: Tensor
    text_scale: Tensor
    standard: Tensor
    counts: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: Any) -> None:
        super().__init__()
        self.n_items, self.width, self.config = len(inputs.text), width, config
        mean, scale = mean_and_scale(inputs.text)
        self.register_buffer("text_mean", torch.from_numpy(mean))
        self.register_buffer("text_scale", torch.tensor(scale))
        self.register_buffer("standard", self.standardised(torch.from_numpy(inputs.text)), persistent=False)
        self.register_buffer("counts", torch.from_numpy(inputs.counts), persistent=False)

    def standardised(self, text: Tensor) -> Tensor:
        """Text vectors [M, D_t] as layers read them; raises InputError where they are of another width."""
        fitted = len(self.text_mean)
        if text.shape[1] != fitted:
            raise InputError(f"{self.name}: text vectors of width {text.shape[1]}, fitted on width {fitted}")
        return (text - self.text_mean) / self.text_scale


class IdTable(ItemTable):
    """One free vector an item: a plain sequential model's."""

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__()
        self.n_items, self.width = n_items, width
        self.items = nn.Embedding(n_items, width)
        nn.init.normal_(self.items.weight, std=0.02)

    def forward(self) -> Tensor:
        return self.items.weight

    def at(self, rows: Tensor) -> Tensor:
        vectors: Tensor = self.items(rows)
        return vectors


class FrozenTable(ItemTable):
    """Vectors as training left them: a trained table's, without what they were made of.

    Args:
        read: [N, D], what histories are read with.
        rank: [N, D], what items are ranked with.
    """

    read: Tensor
    rank: Tensor

    def __init__(self, read: Tensor, rank: Tensor) -> None:
        super().__init__()
        self.n_items, self.width = read.shape
        self.register_buffer("read", read)
        self.register_buffer("rank", rank)

    def forward(self) -> Tensor:
        return self.read

    def scores(self) -> Tensor:
        return self.rank
