"""`NextCodeScorer`: what beam search asks of a model.

Shapes: B users, K beams, L levels, V_l codes on level l, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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
