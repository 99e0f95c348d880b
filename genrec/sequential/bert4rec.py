"""BERT4Rec: self-attention in both directions, trained to fill gaps (Sun et al., CIKM 2019, arXiv 1904.06690).

Training hides each item of a history with probability rho and asks for it (the Cloze task, section 3.5); some histories
hide their last item alone, because that is the question asked later: a mask behind the history. Positions are counted
from the end, so that this question stands at one place whatever the history's length (the authors pad on the left).

Shapes: B sequences, T positions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.semtok.dropout import dropout
from genrec.sequential.base import MASK, PADDING, Backbone
from genrec.sequential.config import Bert4RecConfig
from genrec.sequential.transformer import TransformerBlock


class Bert4RecBackbone(Backbone):
    """Learned positions and a learned vector for gaps; a GELU layer before items are compared (equation 7)."""

    name, causal = "bert4rec", False

    def __init__(self, config: Bert4RecConfig) -> None:
        super().__init__()
        self.config = config
        self.gap = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Embedding(config.max_items + 1, config.width)  # a history and the gap behind it
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.width)
        nn.init.normal_(self.gap, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D]; every position reads every other that is not padding."""
        present = rows != PADDING
        before_end = present.sum(dim=1, keepdim=True) - 1 - torch.arange(x.shape[1], device=x.device)
        x = torch.where((rows == MASK)[..., None], self.gap, x) + self.positions(before_end.clamp(min=0))
        x = dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, present)
        return F.gelu(self.out(self.norm(x)))

    def training_pairs(self, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Histories with gaps, and what stood there; every history has a gap that is asked for."""
        asked = wanted.clone()
        asked[:, 0] = wanted[:, 1]  # a first item is asked for here, as what follows tells of it
        last = torch.arange(rows.shape[1], device=rows.device) == ((rows >= 0).sum(dim=1) - 1)[:, None]
        hidden = torch.rand(rows.shape, device=rows.device) < self.config.mask_share
        asks_last = torch.rand(len(rows), 1, device=rows.device) < self.config.last_share
        hidden = torch.where(asks_last, last, hidden) & (rows >= 0)
        hidden = torch.where((hidden & asked).any(dim=1, keepdim=True), hidden, last)
        return torch.where(hidden, MASK, rows), torch.where(hidden & asked, rows, PADDING)

    def question(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The histories with a gap behind them."""
        gap = torch.arange(rows.shape[1] + 1, device=rows.device) == lengths[:, None]
        return torch.where(gap, MASK, F.pad(rows, (0, 1), value=PADDING)), lengths
