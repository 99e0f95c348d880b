"""A gate that mixes two views of an item dimension by dimension.

Shapes: M items, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.semtok.dropout import Dropout


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
        hidden = nn.functional.gelu(self.hidden(torch.cat([first, second], dim=-1)))
        return torch.sigmoid(self.out(self.dropout(hidden)))
