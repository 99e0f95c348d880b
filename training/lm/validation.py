"""What the language model is chosen on: recall of real constrained decoding on validation cases.

Shapes: B cases, M candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from genrec.data.cases import Cases
from genrec.decoding.filters import ItemFilter
from genrec.decoding.trie import CodeTrie
from genrec.evaluation.metrics import ndcg, rank_of_target, recall
from genrec.ranking.allocation import choose_allocation
from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.ranking.cooccurrence import COOCCURRENCE_WEIGHTS, Cooccurrence
from genrec.ranking.ranker import Ranker
from genrec.training.lm.build import LanguageModel, LmInputs

DENSE_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)
SEQUENTIAL_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)
CHOICE = 4
_SCORES = 1 << 29  # of all cases and items; every pair of weights reads them all


class Figures(NamedTuple):
    """Means over the cases."""

    recall: float
    ndcg: float


class Validation:
    """Ranks a sample of validation cases with a model in training.

    Args:
        inputs: of the LM stage.
        config: beams and history length of the ranking.
        n_cases: cases at most, drawn by seed; for the weights, which are chosen once, `CHOICE` times as many. Of more
            than 67 thousand items fewer.
    """

    def __init__(
        self,
        inputs: LmInputs,
        config: RankingConfig,
        n_cases: int,
        seed: int,
    ) -> None:
        most = max(1, _SCORES // len(inputs.catalog))
        self.cases: Cases = inputs.split.valid.sample(min(n_cases, most), seed)
        self.cases_of_choice: Cases = inputs.split.valid.sample(min(CHOICE * n_cases, most), seed)
        self.codes, self.config = inputs.semantic_ids.codes, config
        self.dense_weights = DENSE_WEIGHTS if config.dense_weight is None else (config.dense_weight,)
        self.cooccurrence_weights = (
            COOCCURRENCE_WEIGHTS if config.cooccurrence_weight is None else (config.cooccurrence_weight,)
        )
        self.sequential = inputs.sequential
        self.cooccurrence = Cooccurrence.fit(inputs.split.train, len(inputs.catalog))
        self.trie = CodeTrie(inputs.semantic_ids.codes, inputs.semantic_ids.sizes)
        self.exclude_seen = inputs.exclude_seen

    def __call__(self, lm: LanguageModel) -> dict[str, float]:
        """Recall@10 by beam, by dense head, and with co-occurrence at the weights that win.

        The epoch is chosen by what the language model says: beside other scorers an unfinished model looks as good as a
        finished one.
        """
        alone = [FusionWeights(dense) for dense in self.dense_weights]
        fused = [FusionWeights(*pair) for pair in product(self.dense_weights, self.cooccurrence_weights)]
        found = self.by_weights(lm, [FusionWeights(0.0), FusionWeights(1.0), *alone, *fused], self.cases)
        best = _best(fused, found)
        return {
            "valid_beam_recall@10": found[FusionWeights(0.0)].recall,
            "valid_dense_recall@10": found[FusionWeights(1.0)].recall,
            "valid_fused_recall@10": found[best].recall,
            "dense_weight": best.dense,
            "cooccurrence_weight": best.cooccurrence,
            "selection": max(found[weights].recall for weights in alone),
        }

    def choose(self, lm: LanguageModel) -> FusionWeights:
        """The fusion weights that win by NDCG@10, which a sample of cases tells apart better than Recall@10."""
        sequential = [0.0] if self.sequential is None else SEQUENTIAL_WEIGHTS
        if self.config.sequential_weight is not None:
            sequential = [self.config.sequential_weight]
        weights = [
            FusionWeights(*three) for three in product(self.dense_weights, self.cooccurrence_weights, sequential)
        ]
        return _best(weights, self.by_weights(lm, weights, self.cases_of_choice))

    def allocate(self, lm: LanguageModel, ranking: RankingConfig) -> RankingConfig:
        """`ranking` with the certainty by which lists go without the language model."""
        ranker = self._ranker(lm)
        return choose_allocation(ranker, ranking, self.cases_of_choice, exclude_seen=self.exclude_seen)

    def by_weights(
        self, lm: LanguageModel, weights: Sequence[FusionWeights], cases: Cases, k: int = 10
    ) -> Mapping[FusionWeights, Figures]:
        """Recall@k and NDCG@k of the fused ranking by its weights."""
        everything = ItemFilter(self.trie)
        lists = self._ranker(lm).fused_lists(
            cases.histories,
            weights=list(dict.fromkeys(weights)),
            k=k,
            exact=False,
            filters=[everything.deny(history) for history in cases.histories] if self.exclude_seen else None,
        )
        ranks = {weight: rank_of_target(rows, cases.targets) for weight, rows in lists.items()}
        return {weight: Figures(float(recall(r, k).mean()), float(ndcg(r, k).mean())) for weight, r in ranks.items()}

    def _ranker(self, lm: LanguageModel) -> Ranker:
        parts = (lm.scorer(), self.trie, lm.vocabulary, self.codes, lm.model.head, self.config, self.cooccurrence)
        return Ranker(*parts, self.sequential)


def _best(weights: Sequence[FusionWeights], found: Mapping[FusionWeights, Figures]) -> FusionWeights:
    """Of equal weights those with less of the other component scorers, and codes and dense head most even."""
    return max(
        weights, key=lambda each: (found[each].ndcg, -each.sequential, -each.cooccurrence, -abs(each.dense - 0.5))
    )
