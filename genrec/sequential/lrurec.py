"""LRURec: linear recurrent units over item vectors (Yue et al., WSDM 2024, arXiv 2310.02367; Orvieto et al., 2023).

A state of H complex numbers that forgets each at its own speed and angle,

    h_t = lambda * h_(t-1) + exp(gamma) * (B x_t + b),   y_t = Re(C h_t + c),   lambda = exp(-exp(nu) + i exp(theta))

with every product by element but B and C. It has no non-linearity in time, so all states of a sequence come from
log2(T) steps of doubling in training, and one step an item when a history grows. A feed-forward layer follows; a sum
with what was read and a LayerNorm stand behind each. The released code's item bias is left out: items are compared by
their vectors alone.

Shapes: B sequences, T positions, D width, H = 2 D complex states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.semtok.dropout import dropout
from genrec.sequential.base import Backbone
from genrec.sequential.config import LruRecConfig

_SLOWEST, _FASTEST = 0.99, 0.8  # |lambda| at the start lies on the ring between (the authors' r_max and r_min)


class LinearRecurrence(nn.Module):
    """The recurrent layer: [B, T, D] to [B, T, D], before sum and norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        states = 2 * width
        size = torch.rand(states) * (_SLOWEST**2 - _FASTEST**2) + _FASTEST**2  # |lambda|^2
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(size)))
        self.theta = nn.Parameter(torch.log(2 * math.pi * torch.rand(states)))
        self.gamma = nn.Parameter(
            0.5 * torch.log1p(-size)
        )  # exp(gamma) = sqrt(1 - |lambda|^2): states of unit variance
        # Complex matrices, kept as real layers: x is real, and of y only the real part is read.
        self.into = nn.Linear(width, 2 * states)
        self.out = nn.Linear(2 * states, width)

    def decay(self) -> Tensor:
        """lambda, complex [H]."""
        return torch.exp(torch.complex(-torch.exp(self.nu), torch.exp(self.theta)))

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = self.into(x).chunk(2, dim=-1)
        states = scan(torch.complex(real, imaginary) * torch.exp(self.gamma), self.decay())
        return self.out(torch.cat([states.real, -states.imag], dim=-1))


def scan(inputs: Tensor, decay: Tensor) -> Tensor:
    """All states of h_t = decay h_(t-1) + inputs_t from h_0 = 0, by doubling: O(T log T) work, log2(T) steps.

    After a step of `reach`, a state has read the last 2 `reach` inputs.

    Args:
        inputs: [B, T, H].
        decay: [H].
    """
    reach = 1
    while reach < inputs.shape[1]:
        earlier = F.pad(inputs[:, :-reach] * decay, (0, 0, reach, 0))
        inputs, decay, reach = inputs + earlier, decay * decay, 2 * reach
    return inputs


class LruRecBackbone(Backbone):
    """Norm and dropout of the item vectors, then the blocks."""

    name = "lrurec"

    def __init__(self, config: LruRecConfig) -> None:
        super().__init__()
        self.config = config = config.settled()
        self.dropout = config.dropout or 0.0  # which is a number now
        self.input_norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(_Block(config.width, self.dropout) for _ in range(config.layers))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D]; what stands after the end of a sequence changes none before it."""
        x = self.input_norm(dropout(x, self.dropout, self.training))
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.recurrence, self.recurrence_norm = LinearRecurrence(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.feed_norm = nn.LayerNorm(width)
        for layer in (self.recurrence.into, self.recurrence.out, self.up, self.down):
            for weight in layer.parameters():
                nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        x = self.recurrence_norm(x + dropout(self.recurrence(x), self.dropout, self.training))
        fed = self.down(dropout(F.gelu(self.up(x)), self.dropout, self.training))
        return self.feed_norm(x + dropout(fed, self.dropout, self.training))
