"""FAERec: ID and text vectors fused by a gate and aligned on two levels, for items with few interactions (Wei et al.
2026, arXiv 2604.03688).

    e = LayerNorm( g * E_id + (1 - g) * m(x) ),   m(x) = W2 dropout(GELU(W1 x)),   g = gate(E_id, m(x))
    loss = lambda ( w_item(epoch) L_item(E_id, m) + w_feature(epoch) L_feature(E_id, m) )

The same vectors are read, trained against, scored with and quantised. The released code compares next items with raw ID
vectors in training and with an ungated sum when it ranks.

Shapes: N items, D_t width of the text, D width of the table, M rows of a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.semtok.aligners.base import AlignerInputs, TextReadingTable
from genrec.semtok.aligners.config import FaeRecConfig
from genrec.semtok.aligners.losses import feature_correlation_by_popularity, item_contrast
from genrec.semtok.aligners.principal_axes import component_rows
from genrec.semtok.dropout import Dropout

_ID_SCALE = 0.05  # root mean square of the ID vectors' entries at the start


class DimensionGate(nn.Module):
    """How far each dimension of the first view is believed: g = sigmoid(A2 dropout(GELU(A1 [x ; y]))).

    FAERec (arXiv 2604.03688): A1 is 2D to 2D, A2 is 2D to D with a bias that starts at 0, so that the gate starts near
    one half. The mixture is g x + (1 - g) y, with g [M, D] between 0 and 1.

    Args:
        width: D.
        dropout: on the hidden layer.
    """

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, 2 * width)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(2 * width, width)
        nn.init.zeros_(self.out.bias)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The gate [M, D] of two views [M, D]."""
        hidden = functional.gelu(self.hidden(torch.cat([first, second], dim=-1)))
        return torch.sigmoid(self.out(self.dropout(hidden)))


class FaeRecTable(TextReadingTable):
    """The table; cold-start items have their text alone, as if the gate were shut."""

    name = "faerec"

    def __init__(self, inputs: AlignerInputs, width: int, config: FaeRecConfig) -> None:
        super().__init__(inputs, width, config)
        text_width = inputs.text.shape[1]
        self.items = nn.Embedding(self.n_items, width)
        hidden = max(1, text_width // 2)
        self.mapper = nn.Sequential(
            nn.Linear(text_width, hidden), nn.GELU(), Dropout(config.mapper_dropout), nn.Linear(hidden, width)
        )
        self.gate = DimensionGate(width)
        self.norm = nn.LayerNorm(width)
        # Vectors of unit length: with a softmax over the whole catalogue, LayerNorm's own length of sqrt(D) would start
        # from logits in the tens.
        nn.init.constant_(self.norm.weight, width**-0.5)
        with torch.no_grad():
            self.items.weight.copy_(torch.from_numpy(component_rows(inputs.text, width, _ID_SCALE)))

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
        item, feature = curriculum(epoch, config.minimum, config.period)
        total = item * item_contrast(own, mapped, rows, config.temperature)
        total = total + feature * feature_correlation_by_popularity(own, mapped, counts)
        return config.weight * total

    def from_text(self, text: Tensor) -> Tensor:
        return self.norm(self.mapper(self.standardised(text)))

    def _fused(self, own: Tensor, mapped: Tensor, counts: Tensor) -> Tensor:
        gate = self.gate(own, mapped) * (counts > 0)[:, None]
        return self.norm(gate * own + (1 - gate) * mapped)


def curriculum(epoch: float, minimum: float, period: float) -> tuple[float, float]:
    """(w_item, w_feature), the weights of the two losses after so many epochs:

        w_item(e) = w_min + (1 - w_min) (1 + cos(2 pi e / T)) / 2,   w_feature(e) = 1 - w_item(e)

    Epoch 0 is item-level alone; the feature-level loss has most, 1 - w_min, at T / 2; then back.
    """
    item = minimum + (1 - minimum) * (1 + math.cos(2 * math.pi * epoch / period)) / 2
    return item, 1 - item
