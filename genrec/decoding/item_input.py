"""`ItemInput`: an item's own vector, added to the embedding of its last code.

A small language model has no room to learn every item of a catalogue from the few hundred codes that spell them. So
where a prompt's tokens spell an item, the vector that was quantised is mapped and added:

    e'_t = e_t + P x_i        where the codes of item i end at token t

P is trained and the vectors are frozen, so an item that is added later is read like any other. What reads the codes
alone (a plain `transformers` call) finds a model that has met such prompts too: some training rows go without.

Shapes: B rows, T tokens, N items, L levels, V_l codes on level l, W width of the vectors, H width of the model.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.arrays import Spec, read_tensors
from genrec.semtok.errors import InputError

FILE = "item_input.safetensors"


class SpelledItems(nn.Module):
    """Finds the items that tokens spell.

    Args:
        vocabulary: the tokens of the codes.
        codes: int [N, L] semantic IDs by catalogue row.

    Raises:
        InputError: the levels can spell more than 2^64 IDs.
    """

    level_of: Tensor
    code_of: Tensor
    keys: Tensor
    row_of_key: Tensor
    last_tokens: Tensor

    def __init__(self, vocabulary: SidVocabulary, codes: NDArray[np.int32]) -> None:
        super().__init__()
        self.sizes = vocabulary.sizes
        if prod(self.sizes) > 1 << 64:  # up to here keys may wrap around and still differ
            raise InputError(f"--semtok.sizes {list(self.sizes)}: more than 2^64 IDs; take fewer or smaller levels")
        n_tokens = max(int(ids.max()) for ids in vocabulary.token_ids) + 1
        level_of, code_of = torch.full((n_tokens + 1,), -1), torch.zeros(n_tokens + 1, dtype=torch.long)
        for level, ids in enumerate(vocabulary.token_ids):
            level_of[ids], code_of[ids] = level, torch.arange(len(ids))
        keys, row_of_key = self._keys(torch.from_numpy(codes).long().unbind(1)).sort()
        for name, value in {
            "level_of": level_of,  # of a token; its last entry stands for all higher tokens, which are no codes
            "code_of": code_of,
            "keys": keys,
            "row_of_key": row_of_key,
            "last_tokens": torch.from_numpy(vocabulary.token_ids[-1][codes[:, -1]]),  # of each item's last code
        }.items():
            self.register_buffer(name, value, persistent=False)

    def _keys(self, codes: tuple[Tensor, ...]) -> Tensor:
        """One number for each sequence of codes."""
        key = torch.zeros_like(codes[0])
        for size, code in zip(self.sizes, codes, strict=True):
            key = key * size + code
        return key

    def rows(self, tokens: Tensor) -> Tensor:
        """Catalogue row of the item whose codes end at each token [B, T], int64; -1 where none does."""
        index = tokens.clamp(max=len(self.level_of) - 1)
        levels, codes = self.level_of[index], self.code_of[index]
        spelled = torch.ones_like(tokens, dtype=torch.bool)
        parts = []
        for level in range(len(self.sizes)):
            back = len(self.sizes) - 1 - level
            spelled &= F.pad(levels, (back, 0), value=-1)[:, : tokens.shape[1]] == level
            parts.append(F.pad(codes, (back, 0))[:, : tokens.shape[1]])
        key = self._keys(tuple(parts))
        place = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        return torch.where(spelled & (self.keys[place] == key), self.row_of_key[place], -1)


class ItemInput(nn.Module):
    """Adds what the vectors of spelled items say.

    Args:
        spelled: finds the items.
        content: float [N, W] item vectors.
        hidden_width: H.
        std: spread of P's first entries; that of the SID rows gives vectors of unit length the size of a row.
    """

    content: Tensor

    def __init__(self, spelled: SpelledItems, content: Tensor, hidden_width: int, std: float = 0.02) -> None:
        super().__init__()
        self.spelled = spelled
        self.map = nn.Linear(content.shape[1], hidden_width, bias=False)
        nn.init.normal_(self.map.weight, std=std)
        self.register_buffer("content", content.float(), persistent=False)

    def rows(self, tokens: Tensor) -> Tensor:
        """See `SpelledItems.rows`."""
        return self.spelled.rows(tokens)

    def forward(self, embedded: Tensor, rows: Tensor) -> Tensor:
        """Embeddings [B, T, H] with the vectors of `rows` [B, T] added; -1 adds nothing."""
        found = rows >= 0
        own = self.map(self.content[rows[found]].to(self.map.weight.dtype))
        return embedded.index_put((found,), own.to(embedded.dtype), accumulate=True)

    def save(self, folder: Path) -> None:
        """Write P (codes and vectors live in their own files of the run)."""
        save_file({"map": self.map.weight.detach().contiguous()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, spelled: SpelledItems, content: Tensor) -> ItemInput | None:
        """Read P, for a catalogue that may have grown since; None where the model was trained without.

        Raises:
            InputError: made for item vectors of another width.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        spec: Spec = {"map": ("float", ("H", content.shape[1]))}
        weight = read_tensors(file, spec, "an item input of these item vectors")["map"]
        made = cls(spelled, content, weight.shape[0])
        made.map.weight.data.copy_(weight)
        return made.eval()
