"""`ComponentScores`: what the component scorers of a run say of every item, and the fused scores of that.

Shapes: B users, K items asked for, N items, M items that the beam retrieved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genrec.data.sequences import Sequences
from genrec.decoding.beam import best_columns
from genrec.decoding.scorer import State
from genrec.ranking.config import FusionWeights

_NEVER = -1e4  # a log-probability, by which an item has no share and no NaN


@dataclass(frozen=True)
class ComponentScores:
    """What component scorers say of every item; None: not asked, or not there.

    Attributes:
        forbidden: [B, N], -inf where a filter forbids, else 0.
        start: where the model stands after the prompts, before any code.
        retrieved: [B, M] rows of the items that the beam retrieved, best first; -1 after the last.
        codes: [B, N] log-probabilities of codes.
        dense: [B, N] log-probabilities of the dense head.
        cooccurrence: [B, N] log-probabilities of co-occurrence, NaN for items without counts.
        sequential: [B, N] log-probabilities of the aligner's recommender.
    """

    forbidden: Tensor
    start: State | None = None
    retrieved: Tensor | None = None
    codes: Tensor | None = None
    dense: Tensor | None = None
    cooccurrence: Tensor | None = None
    sequential: Tensor | None = None

    def best(self, weights: FusionWeights, k: int) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] of the fused ranking; of the codes alone, of what the beam retrieved."""
        if weights == FusionWeights(0.0) and self.retrieved is not None and self.codes is not None:
            scores = self.codes.gather(1, self.retrieved.clamp(min=0)).masked_fill_(self.retrieved < 0, -torch.inf)
            return take(self.retrieved, scores, k)
        return top(self.fused(weights), k)

    def fused(self, weights: FusionWeights) -> Tensor:
        """Scores [B, N] of the fused ranking, -inf where a filter forbids."""
        score, of_codes = self.without_codes(weights)
        if weights.of_codes:
            assert self.codes is not None
            score.addcmul_(self.codes, of_codes)
        return score

    def without_codes(self, weights: FusionWeights) -> tuple[Tensor, Tensor]:
        """What the other scorers give of the fused score, [B, N], -inf where a filter forbids; and the weight [N] that
        the codes have in it, which for an item without counts is larger."""
        score, of_codes = self._allowing_all(weights)
        return score.add_(self.forbidden), of_codes

    def entropy(self, weights: FusionWeights, histories: Sequences) -> Tensor:
        """Nats [B] of the distribution over the items that a history lacks, by scorers other than the codes.

        Filters have no part in it. What is in a history of the training set was learned with it, so that it would make
        those seem certain.
        """
        scores = self._allowing_all(weights)[0]
        users = torch.arange(len(histories)).repeat_interleave(torch.from_numpy(histories.lengths))
        scores[users, torch.from_numpy(histories.values).long()] = _NEVER
        log_probs = scores.log_softmax(dim=1)
        return -torch.linalg.vecdot(log_probs.exp(), log_probs)

    def take(self, users: Tensor) -> ComponentScores:
        """What the scorers beside the language model say for some users."""
        cooccurrence, sequential = (
            None if part is None else part[users] for part in (self.cooccurrence, self.sequential)
        )
        return ComponentScores(self.forbidden[users], cooccurrence=cooccurrence, sequential=sequential)

    def _allowing_all(self, weights: FusionWeights) -> tuple[Tensor, Tensor]:
        """`without_codes`, whatever filters forbid."""
        score, of_codes = torch.zeros_like(self.forbidden), torch.full(self.forbidden.shape[1:], weights.of_codes)
        for weight, part in ((weights.of_dense, self.dense), (weights.sequential, self.sequential)):
            if weight:
                assert part is not None
                score.add_(part, alpha=weight)
        if weights.cooccurrence:
            cooccurrence, known = self._cooccurrence
            score.lerp_(cooccurrence, known * weights.cooccurrence)
            of_codes *= 1 - known[0] * weights.cooccurrence
        return score, of_codes

    @cached_property
    def _cooccurrence(self) -> tuple[Tensor, Tensor]:
        """The co-occurrence scores [B, N], and 1 for items that have counts, 0 for others [B, N]."""
        assert self.cooccurrence is not None
        return self.cooccurrence.nan_to_num(), (~self.cooccurrence.isnan()).float()


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows and values of the best k columns of [B, N]; of equal scores the lower row wins."""
    return take(*best_columns(scores, k), k)


def take(rows: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of candidates [B, M]: by score, then in the order given."""
    best = torch.sort(scores, dim=1, descending=True, stable=True)
    return rows.gather(1, best.indices)[:, :k], best.values[:, :k]
