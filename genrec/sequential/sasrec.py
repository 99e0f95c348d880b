"""SASRec: a causal self-attention network over item ids (Kang and McAuley, ICDM 2018), scored by its own item table.

It is the collaborative side of the tokenizer and the baseline that every result is measured against. Trained with a
softmax over the whole catalogue instead of the paper's one sampled negative, which is worth more than most later
architectures.

Shapes: B sequences, T positions, D width, N items.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.sequences import Sequences
from semtok.errors import InputError
from semtok.folders import read_json, to_json, write_atomic


@dataclass(frozen=True)
class SasRecConfig:
    """Shape of the network.

    Attributes:
        width: D, also the width of the item vectors.
        layers: transformer blocks.
        heads: attention heads.
        dropout: on embeddings, attention outputs and feed-forward outputs.
        max_items: the last items of a history that are read.
    """

    width: int = 128
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    max_items: int = 50

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"--collaborative.heads {self.heads} does not divide --collaborative.width {self.width}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--collaborative.dropout {self.dropout} is not in [0, 1)")
        if min(self.layers, self.max_items) < 1:
            raise InputError("--collaborative.layers and --collaborative.max_items must be at least 1")


class _Block(nn.Module):
    def __init__(self, config: SasRecConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.feed_norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        b, t, d = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + F.dropout(self.out(attended), self.dropout, self.training)
        fed = self.down(F.gelu(self.up(self.feed_norm(x))))
        return x + F.dropout(fed, self.dropout, self.training)


class SasRec(nn.Module):
    """The network; `forward` gives hidden states, `item_vectors` the table that scores them.

    Args:
        n_items: N.
        config: shape.
    """

    def __init__(self, n_items: int, config: SasRecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(n_items + 1, config.width)  # the last row pads
        self.positions = nn.Embedding(config.max_items, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    @property
    def n_items(self) -> int:
        """N."""
        return self.items.num_embeddings - 1

    @property
    def item_vectors(self) -> Tensor:
        """The item table [N, D]."""
        return self.items.weight[:-1]

    def forward(self, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D] for right-padded catalogue rows [B, T]; padding is any row number N."""
        x = self.items(rows) + self.positions.weight[: rows.shape[1]]
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    @torch.inference_mode()
    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Scores float32 [B, N] of the next item; an empty history scores every item 0."""
        recent = histories.last(self.config.max_items)
        lengths = torch.from_numpy(recent.lengths)
        rows = torch.full((len(recent), max(1, int(recent.lengths.max(initial=0)))), self.n_items)
        for i, history in enumerate(recent):
            rows[i, : len(history)] = torch.from_numpy(history)
        was_training = self.training
        self.eval()
        hidden = self(rows)[torch.arange(len(rows)), (lengths - 1).clamp(min=0)]
        self.train(was_training)
        scores = (hidden @ self.item_vectors.T) * (lengths > 0)[:, None]
        result: NDArray[np.float32] = scores.numpy()
        return result

    def save(self, folder: Path) -> None:
        """Write `sasrec.safetensors` and `sasrec.json`."""
        save_file(self.state_dict(), folder / "sasrec.safetensors")
        write_atomic(folder / "sasrec.json", to_json({"n_items": self.n_items, **asdict(self.config)}))

    @classmethod
    def load(cls, folder: Path) -> SasRec:
        """Read what `save` wrote; raises InputError where it is missing."""
        facts = read_json(folder / "sasrec.json")
        model = cls(facts.pop("n_items"), SasRecConfig(**facts))
        model.load_state_dict(load_file(folder / "sasrec.safetensors"))
        return model.eval()
