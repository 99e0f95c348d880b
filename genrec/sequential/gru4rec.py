"""GRU4Rec: a gated recurrent network over item vectors (Hidasi et al., ICLR 2016, arXiv 1511.06939).

Whole histories are the sequences here, where the paper had sessions, and the softmax runs over the catalogue, where it
had a ranking loss over the batch.

Shapes: B sequences, T positions, D width, H width of the recurrent state.
"""

from __future__ import annotations

from torch import Tensor, nn

from genrec.semtok.dropout import dropout
from genrec.sequential.base import Backbone
from genrec.sequential.config import Gru4RecConfig


class Gru4RecBackbone(Backbone):
    """The recurrent layers and a linear layer back to the width of the items."""

    name = "gru4rec"

    def __init__(self, config: Gru4RecConfig) -> None:
        super().__init__()
        self.config = config
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(config.width, config.hidden, config.layers, batch_first=True, dropout=between)
        self.out = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D]; what stands after the end of a sequence changes none before it."""
        states, _ = self.gru(dropout(x, self.config.dropout, self.training))
        return self.out(dropout(states, self.config.dropout, self.training))
