"""LLMEmb's recommendation adaptation training: frozen text vectors, a small adapter that the recommender trains, and a
pull towards the vectors of a recommender that knows behaviour alone (Liu et al. 2024, arXiv 2409.19925, stage 2).

    e = A2 (A1 p),   loss = alpha L_align(c, e)

with p the frozen text vector (its main components), c the frozen collaborative vector and L_align the contrast with
soft targets. There is no non-linearity between A1 and A2, as released. An item's vector comes from its words alone, so
items that nobody has taken are like all others.

The soft targets compare vectors by inner product, as published; on long vectors they are nearly one-hot and no item
shares mass with its likes. So vectors are scaled to unit length by default, prediction and target at one temperature.

Shapes: N items, D_t width of the text, D_p width of p, D width of the table, M rows of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.aligners.config import LlmEmbConfig
from genrec.semtok.aligners.losses import soft_target_contrast
from genrec.semtok.aligners.principal_axes import principal_axes
from genrec.semtok.aligners.simple import start_small
from genrec.semtok.errors import InputError


class LlmEmbTable(ItemTable):
    """The table; without the adapter it has no weights, and only the sequential model learns."""

    components: Tensor
    text_mean: Tensor
    text_axes: Tensor
    collaborative: Tensor
    counts: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: LlmEmbConfig) -> None:
        super().__init__()
        self.n_items, self.width, self.config = len(inputs.text), width, config
        mean, axes = principal_axes(inputs.text, config.text_width if config.adapter else width)
        size = np.linalg.norm((inputs.text - mean) @ axes, axis=1)
        # What an adapter reads has entries of about 1, or it would learn many times slower than the sequential model;
        # what is ranked with as it is has a length of about 1.
        wanted = axes.shape[1] ** 0.5 if config.adapter else 1.0
        spread = np.sqrt(np.square(size).mean())  # 0 where all items have the same words
        axes = axes * np.float32(wanted / spread if spread else 1)
        self.register_buffer("text_mean", torch.from_numpy(mean))
        self.register_buffer("text_axes", torch.from_numpy(axes))
        self.register_buffer("components", torch.from_numpy((inputs.text - mean) @ axes))
        if config.adapter:
            hidden = config.hidden_width or max(1, axes.shape[1] // 2)
            first, last = nn.Linear(axes.shape[1], hidden), nn.Linear(hidden, width)
            self.adapter: nn.Module = nn.Sequential(first, last)
            nn.init.zeros_(first.bias)
            start_small(self.adapter, last, self.components)
        else:
            self.adapter = nn.ZeroPad1d((0, width - axes.shape[1]))
        behaviour = inputs.collaborative
        if behaviour.shape[1] != width:  # inner products need a common width; the main axes keep most of them
            taken = inputs.counts > 0
            mean, axes = principal_axes(behaviour[taken] if taken.any() else behaviour, width)
            behaviour = np.pad((behaviour - mean) @ axes, ((0, 0), (0, width - axes.shape[1])))
        self.register_buffer("collaborative", torch.from_numpy(behaviour), persistent=False)
        self.register_buffer("counts", torch.from_numpy(inputs.counts), persistent=False)

    def forward(self) -> Tensor:
        vectors: Tensor = self.adapter(self.components)
        return vectors

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        config = self.config
        rows = rows[self.counts[rows] > 0]
        if not config.weight or not len(rows):
            return torch.zeros((), device=rows.device)
        known, own = self.collaborative[rows], self.adapter(self.components[rows])
        if config.unit_length:
            tau = config.temperature or 0.1
            known, own = functional.normalize(known, dim=-1), functional.normalize(own, dim=-1)
            return config.weight * soft_target_contrast(known, own, tau, 1 / tau)
        return config.weight * soft_target_contrast(known, own, config.temperature or 2.0)

    def from_text(self, text: Tensor) -> Tensor:
        if text.shape[1] != len(self.text_mean):
            raise InputError(f"llmemb: text vectors of width {text.shape[1]}, fitted on width {len(self.text_mean)}")
        vectors: Tensor = self.adapter((text - self.text_mean) @ self.text_axes)
        return vectors
