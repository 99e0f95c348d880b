"""FAERec: ID and text vectors fused by a gate and aligned on two levels, for items with few interactions (Wei et al.
2026, arXiv 2604.03688).

    e = LayerNorm( g * E_id + (1 - g) * m(x) ),   m(x) = W2 dropout(GELU(W1 x)),   g = gate(E_id, m(x))
    loss = lambda ( w_item(epoch) L_item(E_id, m) + w_feature(epoch) L_feature(E_id, m) )

The same vectors are read, trained against, scored with and quantised. The released code compares next items with raw ID
vectors in training and with an ungated sum when it ranks; `genrec.semtok.aligners.ablations` has that, and the table
without each of its parts.

Shapes: N items, D_t width of the text, D width of the table, M rows of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.aligners.config import FaeRecConfig
from genrec.semtok.aligners.curriculum import CosineCurriculum
from genrec.semtok.aligners.gates import DimensionGate
from genrec.semtok.aligners.losses import feature_correlation_by_popularity, item_contrast
from genrec.semtok.aligners.principal_axes import Floats, principal_axes
from genrec.semtok.dropout import Dropout
from genrec.semtok.errors import InputError

ID_SCALE = 0.05  # root mean square of the ID vectors' entries at the start
_GATE_DROPOUT = 0.1
_OFF_DIAGONAL = 0.005  # weight of the correlation of different dimensions


class FaeRecTable(ItemTable):
    """The table; cold-start items have their text alone, as if the gate were shut."""

    standard: Tensor
    text_mean: Tensor
    text_scale: Tensor
    counts: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: FaeRecConfig) -> None:
        super().__init__()
        self.n_items, self.width, self.config = len(inputs.text), width, config
        text_width = inputs.text.shape[1]
        self.items = nn.Embedding(self.n_items, width)
        hidden = max(1, text_width // 2)
        self.mapper = nn.Sequential(
            nn.Linear(text_width, hidden), nn.GELU(), Dropout(config.mapper_dropout), nn.Linear(hidden, width)
        )
        self.gate = DimensionGate(width, _GATE_DROPOUT)
        self.norm = nn.LayerNorm(width)
        # Vectors of unit length: with a softmax over the whole catalogue, LayerNorm's own length of sqrt(D) would start
        # from logits in the tens.
        nn.init.constant_(self.norm.weight, width**-0.5)
        mean = inputs.text.mean(axis=0)
        scale = np.sqrt(np.square(inputs.text - mean).mean()) or 1.0  # 0 where all items have the same text
        self.register_buffer("text_mean", torch.from_numpy(mean))
        self.register_buffer("text_scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("standard", self._standard(torch.from_numpy(inputs.text)), persistent=False)
        self.register_buffer("counts", torch.from_numpy(inputs.counts), persistent=False)
        with torch.no_grad():
            self.items.weight.copy_(torch.from_numpy(pca_rows(inputs.text, width, ID_SCALE)))

    def forward(self) -> Tensor:
        return self._fused(self.items.weight, self.mapper(self.standard), self.counts)

    def at(self, rows: Tensor) -> Tensor:
        return self._fused(self.items(rows), self.mapper(self.standard[rows]), self.counts[rows])

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        config = self.config
        drawn = torch.randint(self.n_items, (round(config.drawn_items * len(rows)),), device=rows.device)
        rows = torch.cat([rows, drawn])
        rows = rows[self.counts[rows] > 0]  # a cold-start item's ID vector is never read
        if not len(rows):
            return self.items.weight.new_zeros(())
        own, mapped, counts = self.items.weight[rows], self.mapper(self.standard[rows]), self.counts[rows]
        item, feature = self.loss_weights(epoch)
        total = item * item_contrast(own, mapped, rows, config.temperature)
        total = total + feature * feature_correlation_by_popularity(own, mapped, counts, _OFF_DIAGONAL)
        return config.weight * total

    def loss_weights(self, epoch: float) -> tuple[float, float]:
        """Of the item-level and of the feature-level loss, after so many epochs."""
        return CosineCurriculum(self.config.minimum, self.config.period).weights(epoch)

    def share(self, own: Tensor, mapped: Tensor) -> Tensor:
        """g, the share of the ID vectors [M, D] beside the mapped text [M, D], in each dimension."""
        return self.gate(own, mapped)

    def from_text(self, text: Tensor) -> Tensor:
        if text.shape[1] != self.standard.shape[1]:
            raise InputError(f"faerec: text vectors of width {text.shape[1]}, fitted on width {self.standard.shape[1]}")
        return self.norm(self.mapper(self._standard(text)))

    def _standard(self, text: Tensor) -> Tensor:
        """What the mapper reads."""
        return (text - self.text_mean) / self.text_scale

    def _fused(self, own: Tensor, mapped: Tensor, counts: Tensor) -> Tensor:
        gate = self.share(own, mapped) * (counts > 0)[:, None]
        return self.norm(gate * own + (1 - gate) * mapped)


def pca_rows(text: Floats, width: int, scale: float) -> Floats:
    """The `width` main components of the text [N, D_t], with entries of root mean square `scale`: float32 [N, width].

    Columns that the text has no dimensions for are 0.
    """
    mean, axes = principal_axes(text, width)
    components = (text - mean) @ axes
    components *= scale / np.sqrt(np.square(components).mean()).clip(1e-12)
    return np.pad(components.astype(np.float32), ((0, 0), (0, width - components.shape[1])))
