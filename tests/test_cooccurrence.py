"""Counts of what people took next and together: against the formulas written out as loops."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.evaluation.baselines import ItemKnn, Popularity
from genrec.ranking.cooccurrence import FLOOR, KNN_BACK_OFF, NEXT_BACK_OFF, Cooccurrence, best_weight, mixture
from genrec.semtok.errors import InputError

N = 7
TRAIN = Sequences.from_lists([[0, 1, 2], [0, 1, 3], [4, 1, 2], [2], [5, 0, 1]])


def by_hand(train: Sequences, history: list[int], n: int) -> np.ndarray:
    """The docstring's formulas, one item at a time."""
    counts = [sum(item == j for sequence in train for item in sequence) for j in range(n)]
    prior = [(count + FLOOR) / (sum(counts) + FLOOR * n) for count in counts]
    similarity = ItemKnn.fit(train, n).similarity.toarray()
    found = []
    for j in range(n):
        p_next, p_near = prior[j], prior[j]
        if history:
            pairs = [pair for sequence in train for pair in pairwise(sequence.tolist())]
            from_last = [after for before, after in pairs if before == history[-1]]
            p_next = (from_last.count(j) + NEXT_BACK_OFF * prior[j]) / (len(from_last) + NEXT_BACK_OFF)
            scores = sum(0.7**age * similarity[item] for age, item in enumerate(reversed(history)))
            if scores.sum() > 0:
                p_near = (1 - KNN_BACK_OFF) * scores[j] / scores.sum() + KNN_BACK_OFF * prior[j]
        found.append(np.log(0.5 * p_next + 0.5 * p_near))
    return np.array(found)


@given(st.lists(st.lists(st.integers(0, N - 1), max_size=5), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_formulas(histories: list[list[int]]) -> None:
    found = Cooccurrence.fit(TRAIN, N).log_probability(Sequences.from_lists(histories))
    expected = np.stack([by_hand(TRAIN, history, N) for history in histories])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)


def test_save_and_load(tmp_path: Path) -> None:
    cooccurrence, histories = Cooccurrence.fit(TRAIN, N), Sequences.from_lists([[0, 1], [], [6]])
    cooccurrence.save(tmp_path / "n.safetensors")
    loaded = Cooccurrence.load(tmp_path / "n.safetensors")
    np.testing.assert_array_equal(loaded.log_probability(histories), cooccurrence.log_probability(histories))


def test_new_items_are_known_to_nobody() -> None:
    cooccurrence, histories = Cooccurrence.fit(TRAIN, N), Sequences.from_lists([[0, 1], [N + 1], []])
    grown = cooccurrence.extended(N + 2).log_probability(histories)
    assert grown.shape == (3, N + 2)
    assert grown[:, N:].max() < grown[:, :6].min()
    old = cooccurrence.log_probability(histories.take(np.array([0])))
    assert (np.argsort(-grown[0, :N], kind="stable") == np.argsort(-old[0], kind="stable")).all()
    with pytest.raises(InputError, match="co-occurrence counts of 7 items for a catalogue of 6"):
        cooccurrence.extended(6)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors", "truncated"])
def test_bad_files(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "n.safetensors"
    if content == "truncated":
        Cooccurrence.fit(TRAIN, N).save(path)
        path.write_bytes(path.read_bytes()[:-8])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"n\.safetensors: no"):
        Cooccurrence.load(path)


def test_the_share_of_a_mixture_is_what_wins_on_validation() -> None:
    cooccurrence, histories = Cooccurrence.fit(TRAIN, N), Sequences.from_lists([[4, 1], [0]])
    valid = Cases(("a", "b"), ("a", "b"), histories, np.array([2, 1], dtype=np.int32), None, np.zeros(2, dtype=bool))
    popularity = Popularity.fit(TRAIN, N)
    knowing = np.full((1, N), -20, dtype=np.float32)

    def oracle(part: Sequences) -> np.ndarray:
        scores = np.repeat(knowing, len(part), axis=0)
        for row, history in zip(scores, part, strict=True):
            row[2 if history[-1] == 1 else 1] = 20
        return scores

    kept = mixture(oracle, cooccurrence, best_weight(oracle, cooccurrence, valid, exclude_seen=True))(histories)
    np.testing.assert_allclose(np.exp(kept).max(axis=1), 1, atol=1e-4)  # nothing to gain: weight 0
    assert popularity.score(histories).shape == kept.shape


def test_places_in_the_list_choose_the_share_where_everything_is_listed() -> None:
    """Seven items and lists of ten: recall is 1 at every weight, and the cooccurrence put the targets first."""
    cooccurrence, histories = Cooccurrence.fit(TRAIN, N), Sequences.from_lists([[4, 1], [0]])
    valid = Cases(("a", "b"), ("a", "b"), histories, np.array([2, 1], dtype=np.int32), None, np.zeros(2, dtype=bool))

    def mistaken(part: Sequences) -> np.ndarray:
        return np.repeat(-4.0 * np.eye(N, dtype=np.float32)[[1, 2]].sum(axis=0)[None], len(part), axis=0)

    assert best_weight(mistaken, cooccurrence, valid, exclude_seen=True) > 0
