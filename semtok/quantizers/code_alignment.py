"""Codes in a language model's own token space: the alignment of Semantic Convergence (Li et al., AAAI 2025, arXiv
2412.13771), stage 1. Its formulas are not public; this is our reading.

A linear map P takes code vectors to the width of the LM. It is fitted so that an item's codes lie near the words that
describe it, and the rows of the new tokens start from what it gives:

    L = 1/2 (InfoNCE(P z_i, w_i) + InfoNCE(w_i, P z_i)),   z_i = sum_l c_{l, k_l(i)}
    E_new[l] = mean(E) + s_l even(C_l P)

with w_i the mean embedding of the item's words, less mean(E), C_l the code vectors of a level, centred, s_l such that
its rows have the spread of E, and even(U S V^T) = U V^T: the rows nearest to C_l P whose directions weigh the same.
Without it a few directions carry all, codes start nearly alike, and fine-tuning takes longer than from random rows.

Shapes: N items, M rows of a batch, L levels, V_l codes on level l, W width of the codebooks, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genrec.semtok.aligners.losses import symmetric_contrast
from genrec.semtok.quantizers.residual import Floats


class CodeProjection(nn.Module):
    """P, orthogonal at the start, so that codes that are near in the codebook are near in the LM.

    Args:
        codebooks: float32 [V_l, W] a level.
        width: H.
        seed: of the first P.
    """

    def __init__(self, codebooks: Sequence[Floats], width: int, seed: int) -> None:
        super().__init__()
        for level, codebook in enumerate(codebooks):
            book = torch.as_tensor(codebook, dtype=torch.float32)
            self.register_buffer(f"book_{level}", book - book.mean(dim=0))
        self.n_levels = len(codebooks)
        self.weight = nn.Parameter(torch.empty(codebooks[0].shape[1], width))
        nn.init.orthogonal_(self.weight, generator=torch.Generator().manual_seed(seed))

    @property
    def books(self) -> list[Tensor]:
        """The codebooks, each centred: [V_l, W] a level."""
        return [self.get_buffer(f"book_{level}") for level in range(self.n_levels)]

    def forward(self, codes: Tensor) -> Tensor:
        """P z [M, H] of items with codes int64 [M, L]."""
        total = torch.stack([book[codes[:, level]] for level, book in enumerate(self.books)]).sum(dim=0)
        return total @ self.weight

    def loss(self, codes: Tensor, words: Tensor, temperature: float) -> Tensor:
        """The contrast of items' codes [M, L] with their words [M, H]; a scalar."""
        return symmetric_contrast(self(codes), words, torch.arange(len(codes), device=codes.device), temperature)

    @torch.no_grad()
    def rows(self, embeddings: Tensor) -> list[Tensor]:
        """First embeddings [V_l, H] of each level's tokens beside the LM's own [., H]."""
        return [spread_like(embeddings, even(book @ self.weight)) for book in self.books]


def even(rows: Tensor) -> Tensor:
    """U V^T for rows [V, H] = U S V^T: the same directions, all of one length; those of length 0 stay out."""
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    kept = sizes > 1e-5 * sizes.max()
    return left[:, kept] @ right[kept]


def spread_like(embeddings: Tensor, rows: Tensor) -> Tensor:
    """Rows [V, H] moved to the mean of the embeddings [., H] and scaled to their spread."""
    centred = rows - rows.mean(dim=0)
    spread = embeddings.std(dim=0).mean()
    return embeddings.mean(dim=0) + centred * (spread / centred.std().clamp(min=1e-8))
