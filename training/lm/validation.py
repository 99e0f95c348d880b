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
from genrec.ranking.cooccurrence import NEAR_SHARES, Neighbours
from genrec.ranking.ranker import Ranker, RankingConfig, Shares
from genrec.training.finetune import Built, LmInputs
from genrec.training.sequential.fit import sample_cases

DENSE_SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)
SEQUENCE_SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)
CHOICE = 4


class Figures(NamedTuple):
    """Means over the cases."""

    recall: float
    ndcg: float


class Validation:
    """Ranks a sample of validation cases with a model in training.

    Args:
        inputs: of the LM stage.
        config: beams and history length of the ranking.
        n_cases: cases at most, drawn by seed; for the shares, which are chosen once, `CHOICE` times as many.
    """

    def __init__(
        self,
        inputs: LmInputs,
        config: RankingConfig,
        n_cases: int,
        seed: int,
    ) -> None:
        self.cases: Cases = sample_cases(inputs.split.valid, n_cases, seed)
        self.cases_of_choice: Cases = sample_cases(inputs.split.valid, CHOICE * n_cases, seed)
        self.codes, self.config = inputs.semantic_ids.codes, config
        self.dense_shares = DENSE_SHARES if config.dense_share is None else (config.dense_share,)
        self.near_shares = NEAR_SHARES if config.near_share is None else (config.near_share,)
        self.sequence = inputs.sequence
        self.neighbours = Neighbours.fit(inputs.split.train, len(inputs.catalog))
        self.trie = CodeTrie(inputs.semantic_ids.codes, inputs.semantic_ids.sizes)
        self.exclude_seen = inputs.exclude_seen

    def __call__(self, built: Built) -> dict[str, float]:
        """Recall@10 by beam, by dense head, and with the neighbours at the shares that win.

        The epoch is chosen by what the language model says: beside other voices an unfinished model looks as good as a
        finished one.
        """
        alone = [Shares(dense) for dense in self.dense_shares]
        joined = [Shares(*pair) for pair in product(self.dense_shares, self.near_shares)]
        found = self.by_shares(built, [Shares(0.0), Shares(1.0), *alone, *joined], self.cases)
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
        return _best(shares, self.by_shares(built, shares, self.cases_of_choice))

    def by_shares(self, built: Built, shares: Sequence[Shares], cases: Cases, k: int = 10) -> Mapping[Shares, Figures]:
        """Recall@k and NDCG@k of the joined ranking by its shares."""
        model, everything = built.model, ItemFilter(self.trie)
        parts = (built.scorer(), self.trie, built.vocabulary, self.codes, model.head, self.config, self.neighbours)
        lists = Ranker(*parts, self.sequence).joined_lists(
            cases.histories,
            shares=list(dict.fromkeys(shares)),
            k=k,
            filters=[everything.deny(history) for history in cases.histories] if self.exclude_seen else None,
        )
        ranks = {share: rank_of_target(rows, cases.targets) for share, rows in lists.items()}
        return {share: Figures(float(recall(r, k).mean()), float(ndcg(r, k).mean())) for share, r in ranks.items()}


def _best(shares: Sequence[Shares], found: Mapping[Shares, Figures]) -> Shares:
    """Of equal ones that with less of the other voices, and codes and dense head most even."""
    return max(shares, key=lambda one: (found[one].ndcg, -one.sequence, -one.near, -abs(one.dense - 0.5)))
