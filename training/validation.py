"""What the language model is chosen on: recall of real constrained decoding on validation cases.

Shapes: B cases, M candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from genrec.cases import Cases
from genrec.filters import ItemFilter
from genrec.metrics import rank_of_target, recall
from genrec.neighbours import NEAR_SHARES, Neighbours
from genrec.ranking import Ranker, RankingConfig, Shares
from genrec.torch_scorer import TorchScorer
from genrec.trie import CodeTrie
from training.finetune import Built, LmInputs
from training.joint_model import ScoreSpace
from training.sequential import sample_cases

DENSE_SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)


class Validation:
    """Ranks a sample of validation cases with a model in training.

    Args:
        inputs: of the LM stage.
        config: beams and history length of the ranking.
        n_cases: cases at most, drawn by seed.
    """

    def __init__(
        self, inputs: LmInputs, config: RankingConfig, score_space: ScoreSpace, n_cases: int, seed: int
    ) -> None:
        self.cases: Cases = sample_cases(inputs.split.valid, n_cases, seed)
        self.codes, self.config, self.score_space = inputs.semantic_ids.codes, config, score_space
        self.dense_shares = DENSE_SHARES if config.dense_share is None else (config.dense_share,)
        near = NEAR_SHARES if config.near_share is None else (config.near_share,)
        self.shares: list[Shares] = list(product(self.dense_shares, near))
        self.neighbours = Neighbours.fit(inputs.split.train, len(inputs.catalog))
        self.trie = CodeTrie(inputs.semantic_ids.codes, inputs.semantic_ids.sizes)
        everything = ItemFilter(self.trie)
        self.filters = [everything.deny(h) for h in self.cases.histories] if inputs.exclude_seen else None

    def __call__(self, built: Built) -> dict[str, float]:
        """Recall@10 by beam, by dense head, and by all voices with the shares that won.

        The epoch is chosen without the neighbours: beside them an unfinished model looks as good as a finished one.
        """
        recalls = self.by_shares(built)
        best = max(self.shares, key=lambda shares: (recalls[shares], -abs(shares[0] - 0.5), -shares[1]))
        return {
            "valid_beam_recall@10": recalls[0.0, 0.0],
            "valid_dense_recall@10": recalls[1.0, 0.0],
            "valid_joined_recall@10": recalls[best],
            "dense_share": best[0],
            "near_share": best[1],
            "selection": max(recalls[share, 0.0] for share in self.dense_shares),
        }

    def by_shares(self, built: Built, k: int = 10) -> Mapping[Shares, float]:
        """Recall@k of the joined ranking by the shares of dense head and neighbours."""
        scorer = TorchScorer(built.model.export(), built.vocabulary, score_space=self.score_space)
        head = built.model.head
        ranker = Ranker(scorer, self.trie, built.vocabulary, self.codes, head, self.config, self.neighbours)
        without = [(share, 0.0) for share in self.dense_shares]
        asked = dict.fromkeys((*self.shares, *without, (0.0, 0.0), (1.0, 0.0)))
        lists = ranker.joined_lists(self.cases.histories, shares=list(asked), k=k, filters=self.filters)
        return {share: _recall(rows, self.cases.targets, k) for share, rows in lists.items()}


def _recall(rows: NDArray[np.int32], targets: NDArray[np.int32], k: int) -> float:
    return float(recall(rank_of_target(rows, targets), k).mean())
