"""Beam search against exhaustive enumeration and against a beam written in plain Python, on tables of known scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from worlds.table_scorer import TableScorer, TableState

from genrec.decoding.beam import batches, beam_search, score_all
from genrec.decoding.filters import ItemFilter
from genrec.decoding.trie import CodeTrie
from genrec.semtok.errors import InputError

SIZES = (4, 3, 5)


class World:
    """A random catalogue and random scores. With `ties`, log-probabilities are -1 or -2, so that sums are exact."""

    def __init__(self, seed: int, *, n_users: int = 3, n_items: int | None = None, ties: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        n_items = int(self.rng.integers(1, 60)) if n_items is None else n_items
        flat = self.rng.choice(int(np.prod(SIZES)), size=n_items, replace=False)
        self.codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
        self.trie = CodeTrie(self.codes, SIZES)
        self.tables: list[NDArray[np.float32]] = []
        for level in range(len(SIZES)):
            shape = (n_users, *SIZES[: level + 1])
            values = (
                -self.rng.integers(1, 3, size=shape)
                if ties
                else np.log(self.rng.dirichlet(np.ones(shape[-1]), shape[:-1]))
            )
            self.tables.append(np.maximum(values, -50).astype(np.float32))
        self.scorer = TableScorer(self.tables)
        self.prompts = [[user] for user in range(n_users)]

    def prefix_scores(self, user: int) -> dict[tuple[int, ...], np.float32]:
        """Score of every prefix of every item, summed in the order of the levels."""
        scores = {(): np.float32(0)}
        for row in self.codes.tolist():
            for depth in range(len(SIZES)):
                prefix = tuple(row[: depth + 1])
                scores[prefix] = scores[prefix[:-1]] + self.tables[depth][(user, *prefix)]
        return scores

    def draw_filters(self) -> list[ItemFilter]:
        """One filter a user: everything, a mask, a deny list, or both."""
        filters = []
        for _ in self.prompts:
            one = ItemFilter(self.trie)
            if self.rng.random() < 0.6:
                one = ItemFilter.from_mask(self.trie, self.rng.random(self.trie.n_items) < self.rng.random())
            if self.rng.random() < 0.6:
                one = one.deny(self.rng.integers(0, self.trie.n_items, size=4))
            filters.append(one)
        return filters


def expected_beam(world: World, user: int, mask: NDArray[np.bool_], beams: int, k: int) -> list[tuple[int, float]]:
    """The documented search, prefix by prefix."""
    scores = world.prefix_scores(user)
    allowed = [tuple(row) for row in world.codes[mask].tolist()]
    kept: list[tuple[int, ...]] = [()]
    for depth in range(1, len(SIZES) + 1):
        reached = {item[:depth] for item in allowed if item[: depth - 1] in kept}
        ranked = sorted(reached, key=lambda prefix: (-scores[prefix], prefix))
        if depth == len(SIZES):
            row_of = {tuple(codes): row for row, codes in enumerate(world.codes.tolist())}
            return [(row_of[item], float(scores[item])) for item in ranked[:k]]
        kept = []
        for rank, prefix in enumerate(ranked):
            if rank >= beams and sum(item[:depth] in kept for item in allowed) >= k:
                break
            kept.append(prefix)
    raise AssertionError


def assert_lists(world: World, filters: Sequence[ItemFilter] | None, beams: int, k: int) -> None:
    result = beam_search(world.scorer, world.trie, world.prompts, beams=beams, k=k, filters=filters)
    assert result.rows.shape == result.scores.shape == (len(world.prompts), k)
    for user in range(len(world.prompts)):
        mask = np.ones(world.trie.n_items, dtype=np.bool_) if filters is None else filters[user].allowed_mask()
        expected = expected_beam(world, user, mask, beams, k)
        rows, scores = zip(*expected, strict=True) if expected else ((), ())
        padding = k - len(rows)
        assert result.rows[user].tolist() == [*rows, *[-1] * padding]
        assert result.scores[user].tolist() == pytest.approx([*scores, *[-np.inf] * padding])
        assert len(rows) == min(k, mask.sum()), "a list is full whenever enough items are allowed"


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 70), st.booleans(), st.booleans())
def test_beam_search_is_what_is_documented(seed: int, beams: int, k: int, ties: bool, filtered: bool) -> None:
    world = World(seed, ties=ties)
    assert_lists(world, world.draw_filters() if filtered else None, beams, k)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 70), st.booleans(), st.booleans())
def test_a_wide_beam_is_exhaustive_enumeration(seed: int, k: int, ties: bool, filtered: bool) -> None:
    world = World(seed, ties=ties)
    filters = world.draw_filters() if filtered else None
    result = beam_search(world.scorer, world.trie, world.prompts, beams=60, k=k, filters=filters)
    exact = score_all(world.scorer, world.trie, world.prompts, max_nodes=5)
    for user in range(len(world.prompts)):
        scores = exact[user].copy()
        if filters is not None:
            filters[user].apply_to_scores(scores)
        best = [row for row in sorted(world.trie.order.tolist(), key=lambda row: -scores[row]) if scores[row] > -np.inf]
        assert [row for row in result.rows[user].tolist() if row >= 0] == best[:k]


@pytest.mark.parametrize("max_nodes", [1, 3, 7, 1000])
def test_score_all_gives_every_item_the_sum_of_its_codes(max_nodes: int) -> None:
    world = World(5, n_items=40)
    exact = score_all(world.scorer, world.trie, world.prompts, max_nodes=max_nodes)
    for user, row in itertools.product(range(3), range(40)):
        assert exact[user, row] == pytest.approx(world.prefix_scores(user)[tuple(world.codes[row].tolist())], abs=1e-6)


def test_score_all_of_one_level() -> None:
    trie = CodeTrie(np.array([[3], [0], [2]], dtype=np.int32), (4,))
    scorer = TableScorer([np.array([[-1, -2, -3, -4]], dtype=np.float32)])
    assert score_all(scorer, trie, [[0]]).tolist() == [[-4, -1, -3]]
    assert beam_search(scorer, trie, [[0]], beams=1, k=2).rows.tolist() == [[1, 2]]


def test_equal_scores_come_in_trie_order() -> None:
    codes = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], dtype=np.int32)
    scorer = TableScorer([np.full((1, 2), -1, dtype=np.float32), np.full((1, 2, 2), -1, dtype=np.float32)])
    for k, expected in ((4, [3, 1, 2, 0]), (2, [3, 1])):
        assert beam_search(scorer, CodeTrie(codes, (2, 2)), [[0]], beams=2, k=k).rows.tolist() == [expected]


def test_scores_are_not_renormalised_over_a_nodes_children() -> None:
    codes = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int32)
    thin = TableScorer([np.log([[0.5, 0.5]]), np.log([[[0.1, 0.9], [0.4, 0.6]]])])
    result = beam_search(thin, CodeTrie(codes, (2, 2)), [[0]], beams=2, k=3)
    assert result.rows.tolist() == [[2, 1, 0]]
    assert np.exp(result.scores[0]).tolist() == pytest.approx([0.3, 0.2, 0.05])


def test_a_users_list_does_not_depend_on_the_batch() -> None:
    world = World(7, n_users=6, n_items=50)
    filters = world.draw_filters()
    together = beam_search(world.scorer, world.trie, world.prompts, beams=3, k=9, filters=filters)
    for user in range(6):
        alone = beam_search(world.scorer, world.trie, [[user]], beams=3, k=9, filters=[filters[user]])
        assert alone.rows[0].tolist() == together.rows[user].tolist()


def test_short_lists_end_in_padding() -> None:
    world = World(8, n_items=6)
    filters = [ItemFilter(world.trie).deny([0]), ItemFilter(world.trie).deny(range(6)), ItemFilter(world.trie)]
    result = beam_search(world.scorer, world.trie, world.prompts, beams=3, k=6, filters=filters)
    assert (result.rows >= 0).sum(axis=1).tolist() == [5, 0, 6]
    assert result.rows[1].tolist() == [-1] * 6
    more = beam_search(world.scorer, world.trie, world.prompts, beams=3, k=8)
    assert (more.rows[:, :6] >= 0).all()
    assert (more.rows[:, 6:] == -1).all()
    nobody = [ItemFilter(world.trie).deny(range(6))] * 3
    assert (beam_search(world.scorer, world.trie, world.prompts, beams=3, k=2, filters=nobody).rows == -1).all()


@pytest.mark.parametrize(
    ("beams", "k", "message"), [(0, 5, "beams must be at least 1, not 0"), (5, -1, "k must be at least 1")]
)
def test_beams_and_k_must_be_positive(beams: int, k: int, message: str) -> None:
    world = World(10)
    with pytest.raises(InputError, match=message):
        beam_search(world.scorer, world.trie, world.prompts, beams=beams, k=k)


def test_what_does_not_belong_together_is_refused() -> None:
    world = World(11)
    with pytest.raises(ValueError, match="3 prompts but 1 filters"):
        beam_search(world.scorer, world.trie, world.prompts, beams=2, k=2, filters=[ItemFilter(world.trie)])
    other = CodeTrie(world.codes, (4, 3, 6))
    with pytest.raises(ValueError, match=r"the trie has codes \(4, 3, 6\) but the scorer \(4, 3, 5\)"):
        beam_search(world.scorer, other, world.prompts, beams=2, k=2)
    with pytest.raises(ValueError, match="another trie"):
        beam_search(world.scorer, world.trie, [[0]], beams=2, k=2, filters=[ItemFilter(CodeTrie(world.codes, SIZES))])


class BrokenScorer(TableScorer):
    """A model whose weights have turned into NaN."""

    def step(self, state: TableState, parents: Tensor, codes: Tensor) -> Tensor:
        return super().step(state, parents, codes) * torch.nan


def test_scores_that_are_not_numbers_are_an_error() -> None:
    world = World(12, n_items=30)
    with pytest.raises(InputError, match="not numbers"):
        beam_search(BrokenScorer(world.tables), world.trie, world.prompts, beams=4, k=4)
    with pytest.raises(ValueError, match="finite"):
        TableScorer([np.array([[0.0, -np.inf]], dtype=np.float32)])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 200))
def test_batches_hold_everyone_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = batches(lengths, budget)
    assert sorted(user for group in groups for user in group.tolist()) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[user] for user in group)
        assert len(group) == 1 or len(group) * longest <= budget
    by_length = [lengths[user] for group in groups for user in group]
    assert by_length == sorted(lengths)
