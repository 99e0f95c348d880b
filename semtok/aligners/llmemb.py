"""LLMEmb's recommendation adaptation training: frozen text vectors, a small adapter that the recommender trains, and a
pull towards the vectors of a recommender of interactions alone (Liu et al. 2024, arXiv 2409.19925, stage 2).

    e = A2 (A1 p),   loss = alpha L_align(c, e)

with p the frozen text vector (its main components), c the frozen collaborative vector and L_align the contrast with
soft targets. There is no non-linearity between A1 and A2, as released. An item's vector comes from its text alone, so
cold-start items are like all others.

The soft targets compare vectors by inner product, as published; on long vectors they are nearly one-hot and no item
shares mass with its likes. So vectors are scaled to unit length, prediction and target at one temperature.

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
from genrec.semtok.aligners.principal_axes import Floats, principal_axes
from genrec.semtok.aligners.simple import start_small
from genrec.semtok.errors import InputError


class LlmEmbTable(ItemTable):
    """Frozen main components of the text through a trained adapter."""

    components: Tensor
    text_mean: Tensor
    text_axes: Tensor
    collaborative: Tensor
    counts: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: LlmEmbConfig) -> None:
        super().__init__()
        self.n_items, self.width, self.config = len(inputs.text), width, config
        known = inputs.collaborative
        if known is None:
            raise InputError("llmemb: no collaborative vectors")
        mean, axes = self.read_axes(inputs)
        self.register_buffer("text_mean", torch.from_numpy(mean))
        self.register_buffer("text_axes", torch.from_numpy(axes))
        self.register_buffer("components", torch.from_numpy((inputs.text - mean) @ axes))
        self.adapter = self.make_adapter(axes.shape[1])
        if known.shape[1] != width:  # inner products need a common width; the main axes keep most of them
            interacted = inputs.counts > 0
            mean, axes = principal_axes(known[interacted] if interacted.any() else known, width)
            known = np.pad((known - mean) @ axes, ((0, 0), (0, width - axes.shape[1])))
        self.register_buffer("collaborative", torch.from_numpy(known), persistent=False)
        self.register_buffer("counts", torch.from_numpy(inputs.counts), persistent=False)

    def read_axes(self, inputs: AlignerInputs) -> tuple[Floats, Floats]:
        """Mean [D_t] and scaled main axes [D_t, D_p] of the text.

        What an adapter reads has entries of about 1, or it would learn many times slower than the sequential model.
        """
        mean, axes = principal_axes(inputs.text, self.config.text_width)
        return mean, scaled_axes(inputs.text, mean, axes, axes.shape[1] ** 0.5)

    def make_adapter(self, text_width: int) -> nn.Module:
        """A2 (A1 p), [M, D_p] to [M, D]."""
        hidden = self.config.hidden_width or max(1, text_width // 2)
        first, last = nn.Linear(text_width, hidden), nn.Linear(hidden, self.width)
        adapter = nn.Sequential(first, last)
        nn.init.zeros_(first.bias)
        start_small(adapter, last, self.components)
        return adapter

    def forward(self) -> Tensor:
        return self.adapter(self.components)

    def at(self, rows: Tensor) -> Tensor:
        return self.adapter(self.components[rows])

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        rows = rows[self.counts[rows] > 0]
        if not self.config.weight or not len(rows):
            return torch.zeros((), device=rows.device)
        return self.config.weight * self.contrast(self.collaborative[rows], self.adapter(self.components[rows]))

    def contrast(self, known: Tensor, own: Tensor) -> Tensor:
        """L_align of collaborative vectors and the table's own, [M, D] each; a scalar."""
        tau = self.config.temperature
        known, own = functional.normalize(known, dim=-1), functional.normalize(own, dim=-1)
        return soft_target_contrast(known, own, tau, 1 / tau)

    def from_text(self, text: Tensor) -> Tensor:
        if text.shape[1] != len(self.text_mean):
            raise InputError(f"llmemb: text vectors of width {text.shape[1]}, fitted on width {len(self.text_mean)}")
        return self.adapter((text - self.text_mean) @ self.text_axes)


def scaled_axes(text: Floats, mean: Floats, axes: Floats, length: float) -> Floats:
    """The axes [D_t, D_p], such that the components of the text have a root mean square length of `length`."""
    spread = np.sqrt(np.square(np.linalg.norm((text - mean) @ axes, axis=1)).mean())
    return axes * np.float32(length / spread if spread else 1)  # 0 where all items have the same text
