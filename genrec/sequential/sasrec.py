"""SASRec: a causal self-attention network over item vectors (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

With ID vectors it is the collaborative side of the tokenizer and the baseline that every result is measured against.
Trained with a softmax over the whole catalogue instead of the paper's one sampled negative, which is worth more than
most later architectures.

Shapes: B sequences, T positions, D width, N items.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from genrec.semtok.aligners.base import IdTable
from genrec.semtok.dropout import dropout
from genrec.sequential.base import Backbone, SequentialModel, read_shape
from genrec.sequential.config import SasRecConfig
from genrec.sequential.transformer import TransformerBlock


class SasRecBackbone(Backbone):
    """Learned positions, causal blocks, a last LayerNorm."""

    name = "sasrec"

    def __init__(self, config: SasRecConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Embedding(config.max_items, config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D]; what stands after the end of a sequence changes none before it."""
        x = x + self.positions.weight[: x.shape[1]]
        x = dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class SasRec(SequentialModel):
    """SASRec with one free vector an item.

    Args:
        n_items: N.
        config: shape.
    """

    def __init__(self, n_items: int, config: SasRecConfig) -> None:
        super().__init__(IdTable(n_items, config.width), SasRecBackbone(config))

    @classmethod
    def load(cls, folder: Path) -> SasRec:
        """Read what `save` wrote; raises InputError where it is missing or does not fit."""
        n_items, config = read_shape(folder, "sasrec", SasRecConfig)
        model = cls(n_items, config)
        model.load_weights(folder)
        return model
