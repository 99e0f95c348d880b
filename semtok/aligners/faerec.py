"""FAERec: ID and text vectors fused by a gate and aligned on two levels, for items that few have taken (Wei et al.
2026, arXiv 2604.03688).

    e = LayerNorm( g * E_id + (1 - g) * m(x) ),   m(x) = W2 dropout(GELU(W1 x)),   g = gate(E_id, m(x))
    loss = lambda ( w_item(epoch) L_item(E_id, m) + w_feature(epoch) L_feature(E_id, m) )

The same vectors are read, trained against, scored with and quantised. The released code compares next items with raw ID
vectors in training and with an ungated sum when it ranks; `id_targets` and `ungated_scores` bring that back.

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


class FaeRecTable(ItemTable):
    """The table; items that nobody has taken have their text side alone, as if the gate were shut."""

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
        self.gate = DimensionGate(width, config.gate_dropout) if config.gate else None
        self.norm = nn.LayerNorm(width)
        # Vectors of unit length: with a softmax over the whole catalogue, LayerNorm's own length of sqrt(D) would start
        # from logits in the tens.
        nn.init.constant_(self.norm.weight, width**-0.5)
        mean = inputs.text.mean(axis=0)
        scale = np.sqrt(np.square(inputs.text - mean).mean()) or 1.0  # 0 where all items have the same words
        self.register_buffer("text_mean", torch.from_numpy(mean))
        self.register_buffer("text_scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("standard", self._standard(torch.from_numpy(inputs.text)), persistent=False)
        self.register_buffer("counts", torch.from_numpy(inputs.counts), persistent=False)
        with torch.no_grad():
            if config.init == "pca":
                self.items.weight.copy_(torch.from_numpy(pca_rows(inputs.text, width, config.init_scale)))
            else:
                nn.init.normal_(self.items.weight, std=config.init_scale)

    def forward(self) -> Tensor:
        return self._fused(self.mapper(self.standard))

    def scores(self) -> Tensor:
        mapped = self.mapper(self.standard)
        if not self.config.ungated_scores:
            return self._fused(mapped)
        vectors: Tensor = self.norm(mapped + self.items.weight * (self.counts > 0)[:, None])
        return vectors

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        config = self.config
        drawn = torch.randint(self.n_items, (round(config.drawn_items * len(rows)),), device=rows.device)
        rows = torch.cat([rows, drawn])
        rows = rows[self.counts[rows] > 0]  # a cold item's ID vector is never read
        own, mapped = self.items.weight[rows], self.mapper(self.standard[rows])
        item, feature = self._weights(epoch)
        total = own.new_zeros(())
        if config.item_loss and len(rows):
            total = total + item * item_contrast(own, mapped, rows, config.temperature)
        if config.feature_loss and len(rows):
            counts = self.counts[rows]
            total = total + feature * feature_correlation_by_popularity(own, mapped, counts, config.off_diagonal)
        return config.weight * total

    def from_text(self, text: Tensor) -> Tensor:
        if text.shape[1] != self.standard.shape[1]:
            raise InputError(f"faerec: text vectors of width {text.shape[1]}, fitted on width {self.standard.shape[1]}")
        vectors: Tensor = self.norm(self.mapper(self._standard(text)))
        return vectors

    def _standard(self, text: Tensor) -> Tensor:
        """What the mapper reads."""
        return (text - self.text_mean) / self.text_scale

    def _fused(self, mapped: Tensor) -> Tensor:
        own = self.items.weight
        gate = 0.5 if self.gate is None else self.gate(own, mapped)
        gate = gate * (self.counts > 0)[:, None]
        vectors: Tensor = self.norm(gate * own + (1 - gate) * mapped)
        return vectors

    def _weights(self, epoch: float) -> tuple[float, float]:
        if not self.config.curriculum:
            return (1 + self.config.minimum) / 2, (1 - self.config.minimum) / 2
        return CosineCurriculum(self.config.minimum, self.config.period).weights(epoch)


class IdTargetsTable(FaeRecTable):
    """Next items are compared with raw ID vectors in training. A class of its own: where a table has
    `targets` of its own, a training step passes through it twice."""

    def targets(self) -> Tensor:
        return self.items.weight


def faerec_table(inputs: AlignerInputs, width: int, config: FaeRecConfig) -> FaeRecTable:
    """The table of a configuration."""
    return (IdTargetsTable if config.id_targets else FaeRecTable)(inputs, width, config)


def pca_rows(text: Floats, width: int, scale: float) -> Floats:
    """The `width` main components of the text [N, D_t], with entries of root mean square `scale`: float32 [N, width].

    Columns that the text has no dimensions for are 0.
    """
    mean, axes = principal_axes(text, width)
    components = (text - mean) @ axes
    components *= scale / np.sqrt(np.square(components).mean()).clip(1e-12)
    return np.pad(components.astype(np.float32), ((0, 0), (0, width - components.shape[1])))
