"""Where constrained decoding loses a target: in the search, on which level, below prefixes of which size.

    rows = search_diagnosis(ranker, split.test, filters)

Three questions, on a sample of cases. What does the beam lose to a search that looks at every item? After how many
codes is the target's prefix no longer among those kept? Are targets lost whose first code is shared by many items? The
rows stand in `metrics.json` under the split `search`.

Shapes: B cases, N items, K beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.data.cases import Cases
from genrec.decoding.beam import score_all, search
from genrec.decoding.filters import ItemFilter
from genrec.evaluation.metrics import interval, paired_interval, rank_of_target, recall, top_k
from genrec.evaluation.tables import MINUS, SEARCH, Row, row_of
from genrec.ranking.ranker import Ranker

K = 10
CASES = 1000  # that are searched
TOKENS = 1_000_000  # that may be fed in all to score every item; a case takes one for every node of the trie
AT_ONCE = 16  # cases that every item is scored for together
LEAST = 50  # cases below which a catalogue is too large to be looked at whole
SIZES = {"1-9": (1, 9), "10-49": (10, 49), "50-199": (50, 199), "200+": (200, None)}
BEAM = "genrec beam"
EXACT = f"{BEAM}, every item scored"


def search_diagnosis(ranker: Ranker, cases: Cases, filters: Sequence[ItemFilter], *, tokens: int = TOKENS) -> list[Row]:
    """Figures of the beam on cases drawn at random.

    Args:
        filters: one a case.
        tokens: fed at most to score every item.

    Returns:
        Recall@10 of the beam, by slices of the number of items that share the target's first code; `prefix_1` and so
        on, the shares of cases whose first code, first two … are kept; and on as many cases as `tokens` allow,
        Recall@10 where every item is scored, and the difference.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(len(cases))[:CASES])
    cases, filters = cases.take(drawn), [filters[i] for i in drawn]
    trie, beams = ranker.trie, ranker.config.beams
    prompts = [ranker.vocabulary.prompt(ranker.codes[h]) for h in cases.histories.last(ranker.config.max_items)]
    positions = torch.from_numpy(trie.position[cases.targets])
    lists = np.full((len(cases), K), -1, dtype=np.int32)
    kept = np.zeros((trie.n_levels - 1, len(cases)), dtype=bool)
    for group in ranker.groups(prompts, "beam"):
        nodes: list[torch.Tensor] = []
        state = ranker.scorer.start([prompts[i] for i in group])
        items, scores = search(ranker.scorer, state, trie, beams, K, [filters[i] for i in group], nodes)
        lists[group, : items.shape[1]] = np.where(scores.isneginf(), -1, trie.order[items])
        for depth, (level, found) in enumerate(zip(trie.levels, nodes, strict=False)):
            kept[depth, group] = (found == level.child_of(positions[group])[:, None]).any(dim=1).numpy()
    row = partial(row_of, split=SEARCH)
    hits = recall(rank_of_target(lists, cases.targets), K)
    rows = [row(BEAM, "all", "recall", K, interval(hits))]
    rows += [
        row(BEAM, "all", f"prefix_{depth + 1}", beams, interval(one.astype(float))) for depth, one in enumerate(kept)
    ]
    first = trie.levels[0]
    child = first.child_of(positions)
    size = (first.bounds(child.int() + 1) - first.bounds(child.int())).numpy()
    for name, (least, most) in SIZES.items():
        members = (size >= least) & (size <= (most or np.inf))
        if members.any():
            rows.append(row(BEAM, f"items_with_the_first_code_{name}", "recall", K, interval(hits[members])))
    n_exact = min(len(cases), tokens // max(1, sum(len(level.codes) for level in trie.levels[:-1])))
    if n_exact >= min(LEAST, len(cases)):
        every = recall(rank_of_target(_every_item(ranker, prompts[:n_exact], filters), cases.targets[:n_exact]), K)
        rows.append(row(EXACT, "all", "recall", K, interval(every)))
        rows.append(row(EXACT, "all", f"recall{MINUS}{BEAM}", K, paired_interval(every, hits[:n_exact])))
    return rows


def _every_item(ranker: Ranker, prompts: Sequence[Sequence[int]], filters: Sequence[ItemFilter]) -> NDArray[np.int32]:
    """The best items by the codes' exact scores, [B, K]; -1 pads."""
    lists = np.full((len(prompts), K), -1, dtype=np.int32)
    for start in range(0, len(prompts), AT_ONCE):
        scores = score_all(ranker.scorer, ranker.trie, prompts[start : start + AT_ONCE])
        for row, one in zip(scores, filters[start : start + AT_ONCE], strict=False):
            one.apply_to_scores(row)
        lists[start : start + AT_ONCE] = top_k(scores, K)[0]
    return lists
