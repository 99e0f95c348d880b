"""`LanguageModelFacts`: what `lm/genrec.json` of a run says."""

from __future__ import annotations

from dataclasses import dataclass

from genrec.decoding.torch_scorer import ScoreSpace
from genrec.ranking.config import RankingConfig


@dataclass(frozen=True)
class LanguageModelFacts:
    """How a run's language model is read.

    Attributes:
        score_space: what the softmax over a code ran over in training, and runs over wherever the model is read.
        ranking: how lists are made where a request does not say.
    """

    score_space: ScoreSpace
    ranking: RankingConfig
