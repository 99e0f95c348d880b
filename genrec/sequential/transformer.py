"""The transformer block that SASRec and BERT4Rec share: LayerNorm before each part, GELU, dropout after each part.

Shapes: B sequences, T positions, D width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from genrec.semtok.dropout import dropout


class TransformerBlock(nn.Module):
    """Self-attention, then a feed-forward layer of four times the width, each added to what it read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, readable: Tensor | None = None) -> Tensor:
        """Next states [B, T, D].

        Args:
            x: states [B, T, D].
            readable: bool [B, T], positions that every position attends to; None: each attends to those up to itself.
        """
        b, t, d = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mask = None if readable is None else readable[:, None, None, :]
        attended = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        attended = attended.transpose(1, 2).reshape(b, t, d)
        x = x + dropout(self.out(attended), self.dropout, self.training)
        fed = self.down(F.gelu(self.up(self.feed_norm(x))))
        return x + dropout(fed, self.dropout, self.training)
