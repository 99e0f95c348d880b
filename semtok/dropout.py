"""Dropout (Srivastava et al. 2014) whose masks cost a CPU little.

torch draws one number for each entry of a mask, which on a CPU takes longer than the layers of a small model; here a
byte of a 64-bit number decides on an entry, so the rate is rounded to a 256th and the entries that stay are scaled by
what it was rounded to. On other devices this is torch's own.

Shapes: any.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 256  # of a byte


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """`x` with a share `rate` of its entries at 0 and the others scaled up; `x` itself where nothing is trained."""
    dropped = round(rate * _LEVELS)
    if not training or rate == 0:
        return x
    if x.device.type != "cpu" or not 0 < dropped < _LEVELS:
        return F.dropout(x, rate)
    words = torch.randint(-(1 << 63), (1 << 63) - 1, (-(-x.numel() // 8),), dtype=torch.int64)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Module):
    """`dropout` as a layer."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate, self.training)
