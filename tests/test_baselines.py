"""Baselines on small worlds with known answers and against naive loops."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sequences import Sequences
from genrec.evaluation.baselines import BASELINES, ContentKnn, ItemKnn, Markov, Popularity, Random
from genrec.evaluation.metrics import top_k

ITEMS = 8
worlds = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=6, unique=True), min_size=1, max_size=8)


def _order(model, history: list[int]) -> list[int]:
    return top_k(model.score(Sequences.from_lists([history])), ITEMS)[0][0].tolist()


@given(worlds, st.lists(st.integers(0, ITEMS - 1), max_size=4))
def test_popularity_counts_events(train: list[list[int]], history: list[int]) -> None:
    counts = Counter(item for sequence in train for item in sequence)
    expected = sorted(range(ITEMS), key=lambda item: (-counts[item], item))
    assert _order(Popularity.fit(Sequences.from_lists(train), ITEMS), history) == expected


@given(worlds, st.lists(st.integers(0, ITEMS - 1), max_size=4))
def test_markov_counts_transitions_then_popularity(train: list[list[int]], history: list[int]) -> None:
    events = Counter(item for sequence in train for item in sequence)
    pairs = Counter(pair for sequence in train for pair in pairwise(sequence))
    last = history[-1] if history else None
    expected = sorted(range(ITEMS), key=lambda item: (-pairs[last, item], -events[item], item))
    assert _order(Markov.fit(Sequences.from_lists(train), ITEMS), history) == expected


@given(worlds, st.lists(st.integers(0, ITEMS - 1), max_size=4, unique=True), st.integers(1, ITEMS))
def test_item_knn_is_its_formula(train: list[list[int]], history: list[int], neighbours: int) -> None:
    has = np.array([[item in sequence for item in range(ITEMS)] for sequence in train], dtype=float)
    people, events = has.sum(axis=0), Counter(item for sequence in train for item in sequence)
    similarity = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        row = {
            j: (has[:, i] * has[:, j]).sum() / (math.sqrt(people[i] * people[j]) + 3.0) for j in range(ITEMS) if j != i
        }
        for j in sorted(row, key=lambda j: (-np.float32(row[j]), j))[:neighbours]:
            similarity[i, j] = row[j]
    expected = np.array([1e-6 * events[j] / (max(events.values(), default=0) + 1) for j in range(ITEMS)])
    for age, item in enumerate(reversed(history)):
        expected += 0.5**age * similarity[item]
    model = ItemKnn.fit(Sequences.from_lists(train), ITEMS, shrinkage=3.0, neighbours=neighbours, decay=0.5)
    assert model.score(Sequences.from_lists([history]))[0] == pytest.approx(expected, abs=1e-6)


def test_the_end_of_one_sequence_and_the_next_ones_begin_are_no_transition() -> None:
    train = Sequences.from_lists([[], [0, 1], [], [], [2, 3], [4], [5, 6], []])
    found = Markov.fit(train, ITEMS).transitions.toarray()
    assert sorted(zip(*map(list, np.nonzero(found)), strict=True)) == [(0, 1), (2, 3), (5, 6)]


@pytest.mark.parametrize("name", ["Markov", "ItemKnn"])
def test_a_checkerboard_is_solved(name: str) -> None:
    """Half of the people go round the even items, half round the odd ones: the next item has the parity of the last."""
    train = [[(start + 2 * step) % ITEMS for step in range(3)] for start in range(ITEMS)]
    scores = BASELINES[name].fit(Sequences.from_lists(train), ITEMS).score(Sequences.from_lists([[0, 2], [1, 3]]))
    best, _ = top_k(scores, 1, Sequences.from_lists([[0, 2], [1, 3]]))
    assert best[:, 0].tolist() == [4, 5]


@pytest.mark.parametrize("model", BASELINES.values(), ids=BASELINES)
def test_scores_do_not_depend_on_the_chunk_and_fit_without_events(model) -> None:
    rng = np.random.default_rng(0)
    train = Sequences.from_lists([rng.permutation(ITEMS)[: rng.integers(0, 6)] for _ in range(30)])
    fitted = model.fit(train, ITEMS)
    whole = fitted.score(train)
    assert whole.dtype == np.float32
    assert whole.shape == (30, ITEMS)
    parts = [fitted.score(train.take([i])) for i in range(30)]
    assert np.array_equal(whole, np.concatenate(parts))
    nothing = model.fit(Sequences.from_lists([]), ITEMS)
    assert nothing.score(Sequences.from_lists([[], [3]])).tolist() == [[0.0] * ITEMS] * 2


def test_item_knn_has_the_same_neighbours_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    train = Sequences.from_lists([rng.permutation(50)[:7] for _ in range(60)])
    whole = ItemKnn.fit(train, 50, neighbours=5).similarity.toarray()
    monkeypatch.setattr("genrec.evaluation.baselines._BLOCK", 7)
    assert np.array_equal(ItemKnn.fit(train, 50, neighbours=5).similarity.toarray(), whole)
    assert (np.count_nonzero(whole, axis=1) <= 5).all()


def test_content_knn_meets_items_that_nobody_has_bought() -> None:
    units = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], dtype=np.float32)
    scores = ContentKnn(units, decay=0.5).score(Sequences.from_lists([[2, 0], []]))
    np.testing.assert_allclose(scores[0], [1.0, 0.8 + 0.5 * 0.6, 0.5, 1.0])
    assert not scores[1].any()


def test_random_is_the_same_for_the_same_question_and_spreads_hits_evenly() -> None:
    histories = Sequences.from_lists([[i % 7] for i in range(2000)])
    scores = Random(20).score(histories)
    assert np.array_equal(scores, Random(20).score(histories))
    assert abs((scores.argmax(axis=1) == 3).mean() - 1 / 20) < 0.02
