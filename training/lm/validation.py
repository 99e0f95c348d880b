"""What the language model is chosen on: recall of real constrained decoding on validation cases.

Shapes: B cases, M candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from genrec.data.cases import Cases
from genrec.decoding.filters import ItemFilter
from genrec.decoding.trie import CodeTrie
from genrec.evaluation.metrics import ndcg, paired_interval, rank_of_target, recall
from genrec.ranking.allocation import choose_allocation
from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.ranking.cooccurrence import COOCCURRENCE_WEIGHTS, Cooccurrence
from genrec.ranking.ranker import Ranker
from genrec.training.lm.build import LanguageModel, LmInputs

DENSE_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)
SEQUENTIAL_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)
START = FusionWeights(dense=1.0, cooccurrence=0.2, sequential=0.5)  # near the best of every data set in docs/results
CHOICE, CHOSEN_BY = 4, 10  # times as many cases for the fusion weights, and K of the metrics
_SCORES = 1 << 29  # of all cases and items; every pair of weights reads them all


class Validation:
    """Ranks a sample of validation cases with a model in training.

    Args:
        inputs: of the LM stage.
        config: beams and history length of the ranking.
        n_cases: cases at most, drawn by seed; for the weights, which are chosen once, `CHOICE` times as many. Of more
            than 67 thousand items fewer.
    """

    def __init__(self, inputs: LmInputs, config: RankingConfig, n_cases: int, seed: int) -> None:
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
        ranks = self.ranks(lm, [FusionWeights(0.0), FusionWeights(1.0), *alone, *fused], self.cases)
        found = {weights: float(recall(each, CHOSEN_BY).mean()) for weights, each in ranks.items()}
        best = _best(fused, ranks)
        return {
            "valid_beam_recall@10": found[FusionWeights(0.0)],
            "valid_dense_recall@10": found[FusionWeights(1.0)],
            "valid_fused_recall@10": found[best],
            "dense_weight": best.dense,
            "cooccurrence_weight": best.cooccurrence,
            "selection": max(found[weights] for weights in alone),
        }

    def choose(self, lm: LanguageModel) -> FusionWeights:
        """The fusion weights of a run, by NDCG@10, which a sample of cases tells apart better than Recall@10.

        They are `START`, or as near to it as fixed weights allow, unless others are better by a paired interval above
        zero: what is simply best is chance where a few thousand cases cannot tell. Weights without the beam, which is
        most of a list's time, are compared first; then weights with it must be better than what was chosen of those.
        """
        sequential = (0.0,) if self.sequential is None else SEQUENTIAL_WEIGHTS
        if self.config.sequential_weight is not None:
            sequential = (self.config.sequential_weight,)
        options = (self.dense_weights, self.cooccurrence_weights, sequential)
        weights = [FusionWeights(*three) for three in product(*options)]
        ranks = self.ranks(lm, weights, self.cases_of_choice)
        chosen = FusionWeights(*(_nearest(each, wanted) for each, wanted in zip(options, START, strict=True)))
        for among in ([each for each in weights if each.dense == 1], weights):
            if among:
                best = _best(among, ranks)
                if paired_interval(ndcg(ranks[best], CHOSEN_BY), ndcg(ranks[chosen], CHOSEN_BY)).low > 0:
                    chosen = best
        return chosen

    def allocate(self, lm: LanguageModel, ranking: RankingConfig) -> RankingConfig:
        """`ranking` with the certainty by which lists go without the language model."""
        ranker = self._ranker(lm)
        return choose_allocation(ranker, ranking, self.cases_of_choice, exclude_seen=self.exclude_seen)

    def ranks(
        self, lm: LanguageModel, weights: Sequence[FusionWeights], cases: Cases
    ) -> Mapping[FusionWeights, NDArray[np.int64]]:
        """Ranks of the targets int64 [B] in the fused lists, by their weights; 0: not in the list."""
        everything = ItemFilter(self.trie)
        lists = self._ranker(lm).fused_lists(
            cases.histories,
            weights=list(dict.fromkeys(weights)),
            k=CHOSEN_BY,
            exact=False,
            filters=[everything.deny(history) for history in cases.histories] if self.exclude_seen else None,
        )
        return {weight: rank_of_target(rows, cases.targets) for weight, rows in lists.items()}

    def _ranker(self, lm: LanguageModel) -> Ranker:
        parts = (lm.scorer(), self.trie, lm.vocabulary, self.codes, lm.model.head, self.config, self.cooccurrence)
        return Ranker(*parts, self.sequential)


def _nearest(options: Sequence[float], wanted: float) -> float:
    return min(options, key=lambda option: abs(option - wanted))


def _best(weights: Sequence[FusionWeights], ranks: Mapping[FusionWeights, NDArray[np.int64]]) -> FusionWeights:
    """Of equal weights those with less of the other component scorers, and codes and dense head most even."""
    found = {each: float(ndcg(ranks[each], CHOSEN_BY).mean()) for each in weights}
    return max(weights, key=lambda each: (found[each], -each.sequential, -each.cooccurrence, -abs(each.dense - 0.5)))
