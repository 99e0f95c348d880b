"""`DenseHead`: a catalogue ranked by one matrix product with the language model's hidden state before the next item.

An item's vector is the sum of what is shared and what is its own: one vector a code, a linear map of the item's content
vector, and a learned identity vector. An item that training never saw has no identity vector, so it is ranked by its
codes and content alone. Training drops identity vectors now and then, so that codes and content learn to stand alone.

    score(u, i) = (Q h_u) . ( sum_l C_l[code_il] + W x_i + seen_i id_i )

Shapes: B rows, N items, L levels, H hidden width of the LM, D width of the head, W width of the content vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec.semtok.arrays import Spec, read_tensors
from genrec.semtok.errors import InputError


class DenseHead(nn.Module):
    """Item scorer (`ItemScorer` of the design) on a language model's final hidden state.

    Args:
        hidden_width: H.
        width: D.
        codes: int [N, L] semantic IDs by catalogue row.
        sizes: codes a level.
        content: float [N, W] item vectors, frozen.
        seen: bool [N], items that occur in training.
        identity_dropout: share of the items whose identity vectors are absent from a training step.
    """

    codes: Tensor
    content: Tensor
    seen: Tensor

    def __init__(
        self,
        hidden_width: int,
        width: int,
        codes: Tensor,
        sizes: Sequence[int],
        content: Tensor,
        seen: Tensor,
        identity_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.identity_dropout = identity_dropout
        self.query = nn.Linear(hidden_width, width, bias=False)
        self.code_vectors = nn.ParameterList(nn.Parameter(torch.empty(size, width)) for size in sizes)
        self.content_map = nn.Linear(content.shape[1], width, bias=False)
        self.identity = nn.Parameter(torch.empty(len(codes), width))
        self.register_buffer("codes", codes.long(), persistent=False)
        self.register_buffer("content", content.float(), persistent=False)
        self.register_buffer("seen", seen.bool(), persistent=True)
        nn.init.orthogonal_(self.query.weight)
        for vectors in [*self.code_vectors, self.identity]:
            nn.init.normal_(vectors, std=0.02)
        nn.init.normal_(self.content_map.weight, std=0.02)

    def item_matrix(self, rows: Tensor | None = None) -> Tensor:
        """Item vectors [N, D], or those of the given catalogue rows."""
        take = slice(None) if rows is None else rows
        own = self.identity[take] * self.seen[take, None]
        if self.training and self.identity_dropout:
            own = own * (torch.rand(len(own), 1, device=own.device) >= self.identity_dropout)
        vectors: Tensor = self.content_map(self.content[take].to(self.content_map.weight.dtype)) + own
        for level, table in enumerate(self.code_vectors):
            vectors = vectors + table[self.codes[take, level]]
        return vectors

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores [B, N] of all items for hidden states [B, H]; float32, not normalised."""
        return self.query(hidden.float()) @ self.item_matrix().T

    def save(self, file: Path) -> None:
        """Write the weights as safetensors (codes and content vectors live in their own files of the run)."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, file)

    @classmethod
    def load(cls, file: Path, codes: Tensor, sizes: Sequence[int], content: Tensor) -> DenseHead:
        """Read the weights for a catalogue that may have grown since: rows added at its end have no identity vector.

        Raises:
            InputError: the file is missing, or was made for a larger catalogue or other codes.
        """
        levels = {f"code_vectors.{level}": ("float", (size, "D")) for level, size in enumerate(sizes)}
        spec: Spec = {
            "query.weight": ("float", ("D", "H")),
            "content_map.weight": ("float", ("D", content.shape[1])),
            "identity": ("float", ("N", "D")),
            "seen": ("bool", ("N",)),
            **levels,
        }
        state = read_tensors(file, spec, "a dense head of these codes and item vectors")
        added = len(codes) - len(state["identity"])
        if added < 0:
            raise InputError(f"{file}: made for {len(state['identity'])} items, the catalogue has {len(codes)}")
        state["identity"] = torch.cat([state["identity"], torch.zeros(added, state["identity"].shape[1])])
        state["seen"] = torch.cat([state["seen"], torch.zeros(added, dtype=torch.bool)])
        width, hidden_width = state["query.weight"].shape
        head = cls(hidden_width, width, codes, sizes, content, state["seen"])
        head.load_state_dict(state)
        return head.eval()
