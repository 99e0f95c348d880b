"""The two tables that an aligner has to beat: text alone, and text beside an ID vector.

    text            e = a(x)                       a(x) = W2 GELU(W1 x), x the frozen text vector, centred and scaled
    concatenation   e = P [ E_id ; a(x) ]          P the map from 2 D back to D

Nothing is aligned: both only learn from the recommender's own loss. Vectors start at the size of a plain model's ID
vectors, so that all of them start from the same place of the softmax.

Shapes: N items, M other items, D_t width of the text, H hidden width of the adapter, D width of the table.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.aligners.config import ConcatenationConfig, TextTableConfig
from genrec.semtok.aligners.principal_axes import mean_and_scale
from genrec.semtok.dropout import Dropout
from genrec.semtok.errors import InputError

_START = 0.02  # standard deviation of a plain model's ID vectors at the start


class TextTable(ItemTable):
    """Frozen text vectors through a trained adapter; a cold-start item is like all others."""

    text: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: TextTableConfig) -> None:
        super().__init__()
        self.n_items, self.width = len(inputs.text), width
        self.adapter = TextAdapter(inputs.text, width, config.hidden, config.dropout)
        self.register_buffer("text", torch.from_numpy(inputs.text), persistent=False)

    def forward(self) -> Tensor:
        return self.adapter(self.text)

    def at(self, rows: Tensor) -> Tensor:
        return self.adapter(self.text[rows])

    def from_text(self, text: Tensor) -> Tensor:
        return self.adapter(text)


class ConcatenationTable(ItemTable):
    """An ID vector and a text vector side by side, mapped to one; a cold-start item has zeros for its ID."""

    text: Tensor
    taken: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: ConcatenationConfig) -> None:
        super().__init__()
        self.n_items, self.width = len(inputs.text), width
        self.items = nn.Embedding(self.n_items, width)
        nn.init.normal_(self.items.weight, std=_START)
        self.adapter = TextAdapter(inputs.text, width, config.hidden, config.dropout)
        self.join = nn.Linear(2 * width, width)
        nn.init.orthogonal_(self.join.weight)  # keeps the size of what it joins
        nn.init.zeros_(self.join.bias)
        self.register_buffer("text", torch.from_numpy(inputs.text), persistent=False)
        self.register_buffer("taken", torch.from_numpy(inputs.counts > 0)[:, None], persistent=False)

    def forward(self) -> Tensor:
        return self._joined(self.items.weight * self.taken, self.adapter(self.text))

    def at(self, rows: Tensor) -> Tensor:
        return self._joined(self.items(rows) * self.taken[rows], self.adapter(self.text[rows]))

    def from_text(self, text: Tensor) -> Tensor:
        said = self.adapter(text)
        return self._joined(torch.zeros_like(said), said)

    def _joined(self, own: Tensor, said: Tensor) -> Tensor:
        return self.join(torch.cat([own, said], dim=1))


class TextAdapter(nn.Module):
    """a(x): [M, D_t] to [M, D]; raises InputError for text vectors of another width."""

    mean: Tensor
    scale: Tensor

    def __init__(self, text: np.ndarray, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        mean, scale = mean_and_scale(text)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.tensor(scale))
        layers: list[nn.Module] = [nn.Linear(text.shape[1], hidden), nn.GELU(), Dropout(dropout)] if hidden else []
        last = nn.Linear(hidden or text.shape[1], width)
        self.layers = nn.Sequential(*layers, last)
        start_small(self, last, torch.from_numpy(text))

    def forward(self, text: Tensor) -> Tensor:
        if text.shape[1] != len(self.mean):
            raise InputError(f"text vectors of width {text.shape[1]}, fitted on width {len(self.mean)}")
        return self.layers((text - self.mean) / self.scale)


@torch.no_grad()
def start_small(adapter: nn.Module, last: nn.Linear, inputs: Tensor) -> None:
    """Scale an adapter's last layer so that what it makes of `inputs` is of the size of a plain model's ID vectors."""
    nn.init.zeros_(last.bias)
    adapter.eval()
    size = adapter(inputs).std()
    if size > 1e-12:  # otherwise items are alike and their size says nothing: what is next would start at 10^10
        last.weight *= _START / size
    adapter.train()
