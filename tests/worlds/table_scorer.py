"""A scorer that answers exactly, from tables of log-probabilities.

Shapes: B users, K beams, V_l codes on level l, U users of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class TableState:
    """Codes fed so far by each beam, [B, K, level]."""

    log_probs: Tensor
    users: Tensor
    prefixes: Tensor
    hidden: Tensor | None = None
    beam_hidden: Tensor | None = None


class TableScorer:
    """A scorer that looks conditional log-probabilities up.

    Args:
        tables: one array a level; `tables[l]` is [U, V_0, ..., V_l], the log-probability of the last code given
            the codes before it, for each of U users. The prompt of user u is `[u]`.
    """

    def __init__(self, tables: Sequence[NDArray[np.float32]]) -> None:
        if not all(np.isfinite(table).all() for table in tables):
            raise ValueError("log-probabilities must be finite")
        self.tables = [torch.as_tensor(table, dtype=torch.float32) for table in tables]
        self.sizes: tuple[int, ...] = tuple(table.shape[-1] for table in tables)

    def start(self, prompts: Sequence[Sequence[int]]) -> TableState:
        """Read the user of each prompt."""
        users = torch.tensor([prompt[0] for prompt in prompts], dtype=torch.long)
        return TableState(self.tables[0][users], users, torch.empty(len(prompts), 1, 0, dtype=torch.long))

    def step(self, state: TableState, parents: Tensor, codes: Tensor) -> Tensor:
        """Look the rows of the extended prefixes up, [B, K, V_l]."""
        rows = torch.arange(len(parents))[:, None]
        state.prefixes = torch.cat([state.prefixes[rows, parents], codes[..., None]], dim=-1)
        level = state.prefixes.shape[-1]
        index = (state.users[:, None].expand_as(codes), *state.prefixes.unbind(-1))
        return self.tables[level][index]
