"""GRU4Rec: a gated recurrent network over item vectors (Hidasi et al., ICLR 2016, arXiv 1511.06939).

Whole histories are the sequences here, where the paper had sessions, and the softmax runs over the catalogue, where it
had a ranking loss over the batch.

Shapes: B sequences, T positions, D width, H width of the recurrent state.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from genrec.semtok.dropout import dropout
from genrec.semtok.errors import InputError
from genrec.sequential.base import Backbone, check_shape


@dataclass(frozen=True)
class Gru4RecConfig:
    """Shape of the network.

    Attributes:
        width: D, also the width of the item vectors.
        hidden: H.
        layers: recurrent layers.
        dropout: on item vectors and on recurrent states.
        max_items: the last items of a history that are read.
    """

    width: int = 128
    hidden: int = 128
    layers: int = 1
    dropout: float = 0.3
    max_items: int = 50

    def __post_init__(self) -> None:
        check_shape("gru4rec", self)
        if self.hidden < 1:
            raise InputError(f"--gru4rec.hidden {self.hidden} must be at least 1")


class Gru4RecBackbone(Backbone):
    """The recurrent layers and a linear layer back to the width of the items."""

    name = "gru4rec"
    shape = Gru4RecConfig

    def __init__(self, config: Gru4RecConfig) -> None:
        super().__init__()
        self.config = config
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(config.width, config.hidden, config.layers, batch_first=True, dropout=between)
        self.out = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D]; what stands after the end of a sequence changes none before it."""
        states, _ = self.gru(dropout(x, self.config.dropout, self.training))
        hidden: Tensor = self.out(dropout(states, self.config.dropout, self.training))
        return hidden
