"""The first embeddings of the SID tokens: at random, or aligned with the words of the items.

Shapes: N items, L levels, L' quantised levels, V_l codes on level l, W width of the codebooks, H hidden width,
R = 1 + sum V_l rows: the history token, which starts at the mean of the words, then every level's codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from genrec.semtok.quantizers.code_alignment import CodeProjection, spread_like
from genrec.semtok.quantizers.residual import Codes, Floats

_TEMPERATURE = 0.07
_STEPS = 300
_BATCH = 512
_LEARNING_RATE = 1e-2


def random_rows(embeddings: Tensor, sizes: Sequence[int], seed: int) -> Tensor:
    """Rows [R, H] drawn around the mean of the LM's embeddings [., H] with their spread."""
    return _stacked(embeddings, _drawn(embeddings.detach().float(), sizes, seed))


def aligned_rows(
    embeddings: Tensor,
    codebooks: Sequence[Floats],
    codes: Codes,
    words: Tensor,
    sizes: Sequence[int],
    seed: int,
) -> Tensor:
    """Rows [R, H] near the words of their items (`genrec.semtok.quantizers.code_alignment`), by one P for all levels.

    Args:
        embeddings: the LM's embedding matrix [., H].
        codebooks: [V_l, W] for L' levels.
        codes: int32 [N, L].
        words: [N, H], see `item_words`.
        sizes: V_l for L levels.
    """
    matrix = embeddings.detach().float()
    projection = fit_projection(CodeProjection(codebooks, matrix.shape[1], seed), codes, words, seed)
    return _stacked(embeddings, projection.rows(matrix) + _drawn(matrix, sizes[len(codebooks) :], seed))


def fit_projection(projection: CodeProjection, codes: Codes, words: Tensor, seed: int) -> CodeProjection:
    """Fit P on all items: a few hundred steps of Adam, its rate falling to 0 on a cosine."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.from_numpy(codes[:, : projection.n_levels]).long()
    optimizer = torch.optim.Adam(projection.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        rows = torch.randperm(len(known), generator=generator)[:_BATCH]
        loss = projection.loss(known[rows], words[rows], _TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return projection


def item_words(embeddings: Tensor, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Tensor:
    """Mean embedding of each text's tokens, less the mean of all embeddings: float32 [N, H]; 0 for an empty text."""
    matrix = embeddings.detach().float()
    mean, result = matrix.mean(dim=0), torch.zeros(len(texts), matrix.shape[1])
    for row, ids in enumerate(tokenizer(list(texts), add_special_tokens=False)["input_ids"]):
        if ids:
            result[row] = matrix[torch.as_tensor(ids)].mean(dim=0) - mean
    return result


def _drawn(words: Tensor, sizes: Sequence[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [spread_like(words, torch.randn(size, words.shape[1], generator=generator)) for size in sizes]


def _stacked(embeddings: Tensor, levels: Sequence[Tensor]) -> Tensor:
    return torch.cat([embeddings.detach().float().mean(dim=0, keepdim=True), *levels])
