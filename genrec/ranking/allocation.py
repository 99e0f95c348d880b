"""Hybrid allocation: the language model is asked for the lists of which the cheap scorers are uncertain, alone.

    p(i | h)  ~  exp((1 - u) log p_sequential + u log p_cooccurrence)          u: `certain_cooccurrence_weight`
    asked(h)  =  H(p(. | h)) > `language_model_entropy`                        nats, over all items that h lacks

The sequential scorer and co-occurrence cost a fraction of a decoder over a prompt of codes. Where their entropy is low
the list is theirs; where it is high the fused list of all scorers is made. As filters have no part in it, a history is
answered in one way whatever a request allows, and never by who else is asking.

Hybrid task allocation (arXiv 2405.00824) sends inactive users on whom the base model fails to a language model. Here
the base model's own uncertainty decides, as the length of a history told nothing on validation (dev/LOG.md).

Shapes: B cases.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from genrec.data.cases import Cases
from genrec.decoding.filters import ItemFilter
from genrec.evaluation.metrics import ndcg, rank_of_target
from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.ranking.cooccurrence import COOCCURRENCE_WEIGHTS
from genrec.ranking.ranker import Ranker


def choose_allocation(ranker: Ranker, config: RankingConfig, cases: Cases, *, exclude_seen: bool) -> RankingConfig:
    """`config` with what its `language_model_share` leaves to be chosen: u by NDCG@10, the entropy by that share.

    Args:
        ranker: its sequential scorer and co-occurrence are read, the language model is not.
        cases: B validation cases.
        exclude_seen: leave the items of a history out of its list.
    """
    if config.certain_cooccurrence_weight is None:
        everything = ItemFilter(ranker.trie)
        weights = [FusionWeights(1.0, cooccurrence, 1.0) for cooccurrence in COOCCURRENCE_WEIGHTS]
        filters = [everything.deny(history) for history in cases.histories] if exclude_seen else None
        lists = ranker.fused_lists(cases.histories, weights=weights, k=10, filters=filters)
        gain = {each: float(ndcg(rank_of_target(rows, cases.targets), 10).mean()) for each, rows in lists.items()}
        best = max(weights, key=lambda each: (gain[each], -each.cooccurrence))
        config = replace(config, certain_cooccurrence_weight=best.cooccurrence)
    if config.language_model_entropy is None and config.language_model_share > 0:
        entropies = ranker.entropies(cases.histories, config.certain_weights)
        most = float(np.quantile(entropies, 1 - config.language_model_share))
        config = replace(config, language_model_entropy=most)
    return config
