"""Search by a fused score, against the score of every item: random worlds in which a beam of that width would err."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from worlds.table_scorer import TableScorer

from genrec.decoding import fused_search as module
from genrec.decoding.beam import score_all
from genrec.decoding.fused_search import fused_search
from genrec.decoding.trie import CodeTrie

SIZES = (5, 4, 6)
USERS, ITEMS = 4, 60


def world(seed: int) -> tuple[TableScorer, CodeTrie]:
    """Tables of random log-probabilities, and items on random paths."""
    rng = np.random.default_rng(seed)
    tables = []
    for level in range(len(SIZES)):
        logits = torch.from_numpy(rng.normal(0, 2.0, size=(USERS, *SIZES[: level + 1])).astype(np.float32))
        tables.append(logits.log_softmax(-1).numpy())
    cells = rng.choice(np.prod(SIZES), size=ITEMS, replace=False)
    codes = np.stack(np.unravel_index(cells, SIZES), axis=1).astype(np.int32)
    return TableScorer(tables), CodeTrie(codes, SIZES)


def best(scores: Tensor | NDArray[np.float32], k: int) -> list[list[int]]:
    """Rows of the best k that are not -inf; of equal scores the lower row first."""
    return [
        [row for row in np.argsort(-of_user, kind="stable")[:k].tolist() if of_user[row] > -np.inf]
        for of_user in np.asarray(scores)
    ]


def searched(scorer: TableScorer, trie: CodeTrie, weights: Tensor, others: Tensor, *, beams: int, k: int) -> Tensor:
    prompts: Sequence[Sequence[int]] = [[user] for user in range(USERS)]
    return fused_search(scorer, prompts, scorer.start(prompts), trie, weights, others, beams=beams, k=k)


@pytest.mark.parametrize("beams", [1, 3, 30])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_the_best_items_whatever_the_beam(
    seed: int, beams: int, spread: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where other scorers say nothing (spread 0) or nearly all, some items are forbidden, and some weigh more; and
    where few prefixes are fed at once."""
    monkeypatch.setattr(module, "_ROWS", rows)
    scorer, trie = world(seed)
    rng = np.random.default_rng(seed + 100)
    weights = torch.from_numpy(np.where(rng.random(ITEMS) < 0.2, 0.9, 0.4).astype(np.float32))
    others = torch.from_numpy(rng.normal(0, spread, size=(USERS, ITEMS)).astype(np.float32))
    others[:, rng.random(ITEMS) < 0.3] = -torch.inf
    codes = torch.from_numpy(score_all(scorer, trie, [[user] for user in range(USERS)]))
    every = weights * codes + others
    for k in (1, 5, 20):
        found = searched(scorer, trie, weights, others, beams=beams, k=k)
        assert best(found, k) == best(every, k)
        known = ~found.isneginf()
        torch.testing.assert_close(found[known], every[known])


def test_forbidden_items_are_never_found_and_few_allowed_ones_all_are() -> None:
    scorer, trie = world(3)
    others = torch.full((USERS, ITEMS), -torch.inf)
    allowed = [[7, 8, 51], [], [0], list(range(60))]
    for user, rows in enumerate(allowed):
        others[user, rows] = 0.0
    found = searched(scorer, trie, torch.ones(ITEMS), others, beams=1, k=10)
    assert [sorted(rows) for rows in best(found, 10)[:3]] == allowed[:3]
    assert len(best(found, 10)[3]) == 10


def test_items_without_a_weight_of_their_codes_are_ranked_by_the_others() -> None:
    scorer, trie = world(4)
    others = torch.from_numpy(np.random.default_rng(0).normal(size=(USERS, ITEMS)).astype(np.float32))
    assert best(searched(scorer, trie, torch.zeros(ITEMS), others, beams=2, k=7), 7) == best(others, 7)


def test_equal_scores_go_to_the_lower_row() -> None:
    scorer, trie = world(5)
    others = torch.zeros(USERS, ITEMS)
    found = searched(scorer, trie, torch.zeros(ITEMS), others, beams=1, k=6)
    assert best(found, 6) == [list(range(6))] * USERS


def test_a_wide_beam_needs_one_walk_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, trie = world(6)
    others = torch.from_numpy(np.random.default_rng(1).normal(0, 3, size=(USERS, ITEMS)).astype(np.float32))
    starts: list[int] = []
    start = scorer.start
    monkeypatch.setattr(scorer, "start", lambda prompts: starts.append(len(prompts)) or start(prompts))
    wide = searched(scorer, trie, torch.ones(ITEMS), others, beams=ITEMS, k=3)
    assert starts == [USERS]  # the test's own
    monkeypatch.setattr(module, "_ROWS", 1)  # one user at a time
    narrow = searched(scorer, trie, torch.ones(ITEMS), others, beams=1, k=3)
    assert set(starts[2:]) == {1}
    assert best(wide, 3) == best(narrow, 3)
