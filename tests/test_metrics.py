"""Metrics against scikit-learn and brute force, intervals against resampling one case at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from genrec.data.sequences import Sequences
from genrec.evaluation.metrics import (
    coverage,
    gini,
    interval,
    mrr,
    ndcg,
    paired_interval,
    rank_of_target,
    recall,
    top_k,
)

few_values = st.sampled_from([0.0, 1.0, -1.0, 0.5, -np.inf])
score_tables = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=few_values)


def _sorted_rows(scores: NDArray[np.float32], k: int, excluded: set[int]) -> list[int]:
    allowed = [row for row in range(len(scores)) if row not in excluded and scores[row] > -np.inf]
    best = sorted(allowed, key=lambda row: (-scores[row], row))[:k]
    return best + [-1] * (k - len(best))


@given(score_tables, st.integers(1, 12), st.randoms(use_true_random=False))
def test_top_k_is_a_stable_sort(scores, k, random) -> None:
    exclude = [random.sample(range(scores.shape[1]), random.randint(0, scores.shape[1])) for _ in scores]
    before = scores.copy()
    rows, values = top_k(scores, k, Sequences.from_lists(exclude))
    assert rows.dtype == np.int32
    assert rows.tolist() == [_sorted_rows(line, k, set(out)) for line, out in zip(scores, exclude, strict=True)]
    for line, found, value in zip(scores, rows, values, strict=True):
        assert value.tolist() == [line[row] if row >= 0 else -np.inf for row in found]
    assert np.array_equal(scores, before)


def test_top_k_refuses_what_has_no_order() -> None:
    with pytest.raises(ValueError, match="NaN"):
        top_k(np.array([[1.0, np.nan]], dtype=np.float32), 1)
    with pytest.raises(ValueError, match="at least 1"):
        top_k(np.zeros((1, 2), dtype=np.float32), 0)


def test_rank_of_target() -> None:
    rows = np.array([[4, 2, 7], [4, 2, 7], [1, -1, -1]], dtype=np.int32)
    assert rank_of_target(rows, np.array([4, 7, 5], dtype=np.int32)).tolist() == [1, 3, 0]


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_metrics_agree_with_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(k)
    cases, items = 60, 30
    scores = rng.permuted(np.tile(np.arange(items, dtype=np.float32), (cases, 1)), axis=1)
    targets = rng.integers(0, items, size=cases).astype(np.int32)
    ranks = rank_of_target(top_k(scores, items)[0], targets)
    relevant = np.eye(items)[targets]
    assert np.mean(recall(ranks, k)) == pytest.approx(
        top_k_accuracy_score(targets, scores, k=k, labels=np.arange(items))
    )
    assert np.mean(ndcg(ranks, k)) == pytest.approx(ndcg_score(relevant, scores, k=k))
    assert np.mean(mrr(ranks, items)) == pytest.approx(label_ranking_average_precision_score(relevant, scores))
    inside = ranks <= k
    assert np.mean(mrr(ranks, k)) == pytest.approx(
        inside.mean() * label_ranking_average_precision_score(relevant[inside], scores[inside])
    )


def test_a_target_that_is_not_in_the_list_counts_nothing() -> None:
    ranks = np.array([0, 3])
    assert recall(ranks, 5).tolist() == [0, 1]
    assert recall(ranks, 2).tolist() == [0, 0]
    assert ndcg(ranks, 5).tolist() == [0, pytest.approx(1 / math.log2(4))]
    assert mrr(ranks, 5).tolist() == [0, pytest.approx(1 / 3)]


def test_coverage_and_gini_of_known_lists() -> None:
    alone = np.zeros((7, 2), dtype=np.int32)
    alone[:, 1] = -1
    assert coverage(alone, 4, 2) == 0.25
    assert gini(alone, 4, 2) == pytest.approx(1 - 1 / 4)
    even = np.array([[0, 1], [2, 3]], dtype=np.int32)
    assert (coverage(even, 4, 2), gini(even, 4, 2)) == (1.0, 0.0)
    assert (coverage(even, 4, 1), gini(even, 4, 1)) == (0.5, 0.5)
    assert gini(np.full((3, 2), -1, dtype=np.int32), 4, 2) == 0.0


@given(hnp.arrays(np.int32, (6, 3), elements=st.integers(-1, 8)))
def test_gini_is_the_mean_difference_of_all_pairs(rows) -> None:
    times = np.bincount(rows[rows >= 0], minlength=9)
    pairs = np.abs(times[:, None] - times[None, :]).mean()
    expected = pairs / (2 * times.mean()) if times.sum() else 0.0
    assert gini(rows, 9, 3) == pytest.approx(expected)


def test_interval_agrees_with_resampling_case_by_case() -> None:
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 15, size=400)
    values = ndcg(ranks, 10)
    means = [values[rng.integers(0, 400, size=400)].mean() for _ in range(4000)]
    low, high = np.percentile(means, [2.5, 97.5])
    found = interval(values)
    assert (found.value, found.n) == (pytest.approx(values.mean()), 400)
    spread = high - low
    assert found.low == pytest.approx(low, abs=0.06 * spread)
    assert found.high == pytest.approx(high, abs=0.06 * spread)
    assert interval(values) == found
    assert interval(values, seed=1) != found


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        found = interval((rng.random(500) < 0.2).astype(float), resamples=500)
        held += found.low <= 0.2 <= found.high
    assert 0.9 < held / 300 < 0.99


def test_interval_of_one_value_and_of_none() -> None:
    assert tuple(interval(np.ones(8))) == (1.0, 1.0, 1.0, 8)
    with pytest.raises(ValueError, match="no cases"):
        interval(np.empty(0))


def test_paired_interval_uses_that_the_cases_are_the_same() -> None:
    rng = np.random.default_rng(1)
    theirs = (rng.random(1000) < 0.3).astype(float)
    ours = np.where(rng.random(1000) < 0.03, 1.0, theirs)
    paired = paired_interval(ours, theirs)
    assert paired.value == pytest.approx(ours.mean() - theirs.mean())
    assert paired.low > 0
    assert paired.high - paired.low < 0.6 * (interval(ours).high - interval(ours).low)
    with pytest.raises(ValueError, match="same cases"):
        paired_interval(ours, theirs[:10])
