"""What the language model is chosen on: recall of real constrained decoding on validation cases.

Shapes: B cases, M candidates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from genrec.cases import Cases
from genrec.filters import ItemFilter
from genrec.metrics import rank_of_target, recall
from genrec.ranking import Ranker, RankingConfig
from genrec.torch_scorer import TorchScorer
from genrec.trie import CodeTrie
from training.finetune import Built, LmInputs
from training.joint_model import ScoreSpace
from training.sequential import sample_cases

SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)


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
        self.trie = CodeTrie(inputs.semantic_ids.codes, inputs.semantic_ids.sizes)
        everything = ItemFilter(self.trie)
        self.filters = [everything.deny(h) for h in self.cases.histories] if inputs.exclude_seen else None

    def __call__(self, built: Built) -> dict[str, float]:
        """Recall@10 by beam, dense head and both (the best share of `SHARES`), with the share that won."""
        recalls = self.by_share(built)
        best = max(recalls, key=lambda share: (recalls[share], -abs(share - 0.5)))
        return {
            "valid_beam_recall@10": recalls[0.0],
            "valid_dense_recall@10": recalls[1.0],
            "valid_joined_recall@10": recalls[best],
            "dense_share": best,
            "selection": recalls[best],
        }

    def by_share(self, built: Built, k: int = 10) -> Mapping[float, float]:
        """Recall@k of the joined ranking by the share of the dense head."""
        scorer = TorchScorer(built.model.export(), built.vocabulary, score_space=self.score_space)
        ranker = Ranker(scorer, self.trie, built.vocabulary, self.codes, built.model.head, self.config)
        lists = ranker.joined_lists(self.cases.histories, shares=SHARES, k=k, filters=self.filters)
        return {share: _recall(rows, self.cases.targets, k) for share, rows in lists.items()}


def _recall(rows: NDArray[np.int32], targets: NDArray[np.int32], k: int) -> float:
    return float(recall(rank_of_target(rows, targets), k).mean())
