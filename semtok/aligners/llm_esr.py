"""LLM-ESR's dual view: an item is what its text says beside what people did with it, and each view looks at the other
(Liu et al., NeurIPS 2024, arXiv 2405.20646).

    s = norm(A2 (A1 x)),  c = norm(E_id),   e = norm([ s + attention(s; s, c) ; c + attention(c; c, s) ])
    loss = w L_contrast(s, c), off by default as published

with x the frozen text vector and E_id rows that start at its main components. Both views have half the width, and the
product of two such vectors is the sum of the products of their views, as the authors score items.

What differs: the authors lay two sequences beside each other, let each attend to the other and run one backbone over
each. Here a history is one sequence of both views, and the backbone mixes the two over time; so attention is between
the two views of one item, where a softmax over both is a gate by head. What is read is also what items are ranked with:
the authors rank with the views before attention. The norms are ours: a softmax over the whole catalogue makes the
vectors of trained rows long, and an item that comes later would never be listed.

A cold-start item's collaborative view is where every row began: the main components of its text. The other half of the
paper, users who are taught by those like them, is an option of every aligner's training (`distillation`).

Shapes: N items, M rows of a batch, D_t width of the text, D width of the table.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.semtok.aligners.base import AlignerInputs, TextReadingTable
from genrec.semtok.aligners.config import LlmEsrConfig
from genrec.semtok.aligners.losses import soft_target_contrast
from genrec.semtok.aligners.principal_axes import principal_axes
from genrec.semtok.dropout import Dropout

_ID_SCALE = 0.05  # root mean square of the ID vectors' entries at the start


class LlmEsrTable(TextReadingTable):
    """Two views of half the width each."""

    name = "llm_esr"
    text_axes: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: LlmEsrConfig) -> None:
        super().__init__(inputs, width, config)
        config.check_width(width)
        half, text_width = width // 2, inputs.text.shape[1]
        mean, axes = principal_axes(inputs.text, half)
        components = (inputs.text - mean) @ axes / float(self.text_scale)
        axes *= _ID_SCALE / np.sqrt(np.square(components).mean()).clip(1e-6)
        axes = np.pad(axes, ((0, 0), (0, half - axes.shape[1])))
        self.register_buffer("text_axes", torch.from_numpy(axes))
        self.items = nn.Embedding(self.n_items, half)
        with torch.no_grad():
            self.items.weight.copy_(self.standard @ self.text_axes)
        hidden = max(1, text_width // 2)
        self.adapter = nn.Sequential(nn.Linear(text_width, hidden), nn.Linear(hidden, half))
        self.said_norm, self.done_norm, self.norm = nn.LayerNorm(half), nn.LayerNorm(half), nn.LayerNorm(width)
        nn.init.constant_(self.norm.weight, width**-0.5)  # vectors of unit length, as a FAERec table's
        self.said_attention = nn.MultiheadAttention(half, config.heads, batch_first=True)
        self.done_attention = nn.MultiheadAttention(half, config.heads, batch_first=True)
        self.dropout = Dropout(config.dropout)

    def forward(self) -> Tensor:
        return self._joined(*self._views(self.standard, self.items.weight))

    def at(self, rows: Tensor) -> Tensor:
        return self._joined(*self._views(self.standard[rows], self.items(rows)))

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        rows = rows[self.counts[rows] > 0]
        if not self.config.weight or not len(rows):
            return torch.zeros((), device=rows.device)
        said, done = (
            functional.normalize(view, dim=-1) for view in self._views(self.standard[rows], self.items.weight[rows])
        )
        tau = self.config.temperature
        return self.config.weight * soft_target_contrast(said, done, tau, 1 / tau)

    def from_text(self, text: Tensor) -> Tensor:
        standard = self.standardised(text)
        return self._joined(*self._views(standard, standard @ self.text_axes))

    def _views(self, standard: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The semantic and the collaborative view, [M, D / 2] each, before they look at each other."""
        return self.said_norm(self.adapter(standard)), self.done_norm(own)

    def _joined(self, said: Tensor, done: Tensor) -> Tensor:
        """The vectors [M, D] of two views [M, D / 2]."""
        both = torch.stack([said, done], dim=1)
        views = []
        for view, attention in ((said, self.said_attention), (done, self.done_attention)):
            seen, _ = attention(view[:, None], both, both, need_weights=False)
            views.append(view + self.dropout(seen[:, 0]))
        return self.norm(torch.cat(views, dim=1))
