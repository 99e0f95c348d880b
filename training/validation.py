"""What the language model is chosen on: recall of real constrained decoding on validation cases.

Shapes: B cases, M candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from genrec.cases import Cases
from genrec.filters import ItemFilter
from genrec.metrics import ndcg, rank_of_target, recall
from genrec.neighbours import NEAR_SHARES, Neighbours
from genrec.ranking import Ranker, RankingConfig, Shares
from genrec.trie import CodeTrie
from training.finetune import Built, LmInputs
from training.sequential import sample_cases

DENSE_SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)
SEQUENCE_SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)


class Figures(NamedTuple):
    """Means over the cases."""

    recall: float
    ndcg: float


class Validation:
    """Ranks a sample of validation cases with a model in training.

    Args:
        inputs: of the LM stage.
        config: beams and history length of the ranking.
        n_cases: cases at most, drawn by seed.
    """

    def __init__(
        self,
        inputs: LmInputs,
        config: RankingConfig,
        n_cases: int,
        seed: int,
    ) -> None:
        self.cases: Cases = sample_cases(inputs.split.valid, n_cases, seed)
        self.codes, self.config = inputs.semantic_ids.codes, config
        self.dense_shares = DENSE_SHARES if config.dense_share is None else (config.dense_share,)
        self.near_shares = NEAR_SHARES if config.near_share is None else (config.near_share,)
        self.sequence = inputs.sequence
        self.neighbours = Neighbours.fit(inputs.split.train, len(inputs.catalog))
        self.trie = CodeTrie(inputs.semantic_ids.codes, inputs.semantic_ids.sizes)
        everything = ItemFilter(self.trie)
        self.filters = [everything.deny(h) for h in self.cases.histories] if inputs.exclude_seen else None

    def __call__(self, built: Built) -> dict[str, float]:
        """Recall@10 by beam, by dense head, and with the neighbours at the shares that win.

        The epoch is chosen by what the language model says: beside other voices an unfinished model looks as good as a
        finished one.
        """
        alone = [Shares(dense) for dense in self.dense_shares]
        joined = [Shares(*pair) for pair in product(self.dense_shares, self.near_shares)]
        found = self.by_shares(built, [Shares(0.0), Shares(1.0), *alone, *joined])
        best = _best(joined, found)
        return {
            "valid_beam_recall@10": found[Shares(0.0)].recall,
            "valid_dense_recall@10": found[Shares(1.0)].recall,
            "valid_joined_recall@10": found[best].recall,
            "dense_share": best.dense,
            "near_share": best.near,
            "selection": max(found[shares].recall for shares in alone),
        }

    def choose(self, built: Built) -> Shares:
        """The shares of all voices that win by NDCG@10, which a sample of cases tells apart better than Recall@10."""
        sequence = [0.0] if self.sequence is None else SEQUENCE_SHARES
        if self.config.sequence_share is not None:
            sequence = [self.config.sequence_share]
        shares = [Shares(*three) for three in product(self.dense_shares, self.near_shares, sequence)]
        return _best(shares, self.by_shares(built, shares))

    def by_shares(self, built: Built, shares: Sequence[Shares], k: int = 10) -> Mapping[Shares, Figures]:
        """Recall@k and NDCG@k of the joined ranking by its shares."""
        model = built.model
        parts = (built.scorer(), self.trie, built.vocabulary, self.codes, model.head, self.config, self.neighbours)
        asked = list(dict.fromkeys(shares))
        ranker = Ranker(*parts, self.sequence)
        lists = ranker.joined_lists(self.cases.histories, shares=asked, k=k, filters=self.filters)
        ranks = {share: rank_of_target(rows, self.cases.targets) for share, rows in lists.items()}
        return {share: Figures(float(recall(r, k).mean()), float(ndcg(r, k).mean())) for share, r in ranks.items()}


def _best(shares: Sequence[Shares], found: Mapping[Shares, Figures]) -> Shares:
    """Of equal ones that with less of the other voices, and codes and dense head most even."""
    return max(shares, key=lambda one: (found[one].ndcg, -one.sequence, -one.near, -abs(one.dense - 0.5)))
