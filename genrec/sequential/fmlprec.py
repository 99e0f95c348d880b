"""FMLP-Rec: learnable filters and feed-forward layers, no attention (Zhou et al., WWW 2022, arXiv 2202.13556).

A filter layer multiplies the spectrum of a sequence by W, one complex number for each frequency and dimension, which is
a circular convolution over the n = `max_items` places (the convolution theorem, as the authors note):

    irfft(rfft(x) * W)_t = sum_s k_((t - s) mod n) x_s,   k = irfft(W)

It is computed by the right-hand side, a [T, T] matrix for each dimension: most histories are far shorter than n, and
only their own places are paid for. Dropout, a sum with what was read and a LayerNorm stand behind the filter, and the
same behind the feed-forward layer.

A filter reads in both directions, so the state of an item has seen those after it, and one at the end of a sequence is
all that may be asked for what comes next. In training each target therefore gets a sequence of its own, of what came
before it, as in the authors' code. Positions are counted from the end, where the authors' sequences stand too (they
pad on the left). One difference: their padding is read, as its positions' vectors; here it is zero before every layer,
so that what is read is the history and a batch needs no more places than its longest.

Shapes: B sequences, T positions of the longest, n positions at most, D width, P targets of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genrec.semtok.dropout import dropout
from genrec.sequential.base import PADDING, Backbone
from genrec.sequential.config import FmlpRecConfig

# Padded positions that a training step keeps all activations of: at width 128 about a gigabyte. A batch of so many
# targets (T for each) that it has more is read in parts, and each part once more for its gradient.
_POSITIONS = 1 << 15


class FilterLayer(nn.Module):
    """The filter, [B, T, D] to [B, T, D], before sum and norm.

    Args:
        places: n, the circle's length; T is at most that.
        width: D.
    """

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.places = places
        self.spectrum = nn.Parameter(0.02 * torch.randn(places // 2 + 1, width, 2))  # real and imaginary part of W

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.fft.irfft(torch.view_as_complex(self.spectrum), n=self.places, dim=0)  # [n, D]
        at = torch.arange(x.shape[1], device=x.device)
        return torch.einsum("tsd,bsd->btd", taps[(at[:, None] - at) % self.places], x)


class FmlpRecBackbone(Backbone):
    """Learned positions, LayerNorm and dropout, then the blocks."""

    name, causal = "fmlprec", False

    def __init__(self, config: FmlpRecConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Embedding(config.max_items, config.width)
        self.input_norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D]; of a sequence the last one answers, as every state has read the whole of it."""
        if not self.training or x.shape[0] * x.shape[1] <= _POSITIONS:
            return self._states(x, rows)
        together = max(1, _POSITIONS // x.shape[1])
        parts = zip(x.split(together), rows.split(together), strict=True)
        return torch.cat([checkpoint(self._states, *part, use_reentrant=False) for part in parts])

    def _states(self, x: Tensor, rows: Tensor) -> Tensor:
        present = (rows != PADDING)[..., None]
        before_end = present.sum(dim=1) - 1 - torch.arange(x.shape[1], device=x.device)
        x = self.input_norm(x + self.positions(before_end.clamp(min=0)))
        x = dropout(x, self.config.dropout, self.training) * present
        for block in self.blocks:
            x = block(x) * present
        return x

    def training_pairs(self, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """A sequence of its own for each target, [P, T]: what came before it, and it at the last place.

        The first B are those of the histories' last events, the others stand by length.
        """
        places, ends = torch.arange(rows.shape[1], device=rows.device), (rows >= 0).sum(dim=1) - 1
        earlier, history = (wanted & (places != ends[:, None])).T.nonzero().unbind(dim=1)
        history = torch.cat([torch.arange(len(rows), device=rows.device), history])
        ends = torch.cat([ends, earlier])[:, None]
        asked = torch.where(wanted, rows, PADDING)[history].gather(1, ends.clamp(min=0))
        places = places[:-1]
        return (
            torch.where(places < ends, rows[history, :-1], PADDING),
            torch.where(places == ends - 1, asked, PADDING),
        )


class _Block(nn.Module):
    def __init__(self, config: FmlpRecConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.filter, self.filter_norm = FilterLayer(config.max_items, config.width), nn.LayerNorm(config.width)
        self.up, self.down = nn.Linear(config.width, 4 * config.width), nn.Linear(4 * config.width, config.width)
        self.feed_norm = nn.LayerNorm(config.width)
        for layer in (self.up, self.down):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        x = self.filter_norm(x + dropout(self.filter(x), self.dropout, self.training))
        return self.feed_norm(x + dropout(self.down(F.gelu(self.up(x))), self.dropout, self.training))
