"""`NextCodeScorer`: what beam search asks of a model, and a table for tests that answers it exactly.

Shapes: B users, K beams, L levels, V_l codes on level l, D hidden width, U users of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class State(Protocol):
    """Where a search of B users stands.

    `step` rebinds a state's attributes and adds to what they held without changing it, so a search can return to where
    `copy.copy(state)` was taken, after `start` or any step, and go on from there otherwise: whatever was fed since then
    is given up by that, and copies of a later moment are of no more use.

    Attributes:
        log_probs: float32 [B, V_0], log-probabilities of the first code.
        hidden: float32 [B, D], the last hidden state of each prompt, or None where a scorer has none.
        beam_hidden: float32 [B, K, D], that of each beam of the last step, or None.
    """

    log_probs: Tensor
    hidden: Tensor | None
    beam_hidden: Tensor | None


class NextCodeScorer(Protocol):
    """Log-probabilities of the next code for all beams of all users at once.

    Attributes:
        sizes: codes on each level.
    """

    sizes: tuple[int, ...]

    def start(self, prompts: Sequence[Sequence[int]]) -> Any:
        """Read the prompts (LM token ids, one list a user) and return a `State`."""

    def step(self, state: Any, parents: Tensor, codes: Tensor) -> Tensor:
        """Feed one code a beam and return the log-probabilities of the next.

        The first call feeds codes of level 0, whose parent is 0, the root; the call after it codes of level 1, whose
        parents are the beams of the first call; and so on. The codes of the last level are never fed.

        Args:
            state: what `start` returned.
            parents: int64 [B, K], the beam of the previous call that each beam continues.
            codes: int64 [B, K].

        Returns:
            float32 [B, K, V_l], finite.
        """


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
