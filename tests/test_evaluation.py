"""Evaluation on a world small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.evaluation.baselines import Popularity
from genrec.evaluation.metrics import interval, rank_of_target
from genrec.evaluation.tables import KS, METRICS, compare, evaluate, format_table, padded, rank, slices, summary

ITEMS = 10
TRAIN = Sequences.from_lists([[0, 1, 2], [0, 1], [0, 3, 4, 5], [0]])  # 0 four times, 1 twice; 6 to 9 never


def _cases(same_day: list[bool] | None = None) -> Cases:
    histories = [[0], [0, 1, 2, 3, 4], [*range(10), 0], [1]]
    targets = np.array([1, 0, 2, 8], dtype=np.int32)
    names = ("a", "b", "c", "d")
    days = None if same_day is None else np.array(same_day)
    return Cases(names, names, Sequences.from_lists(histories), targets, days, targets == 8)


def _lists(*firsts: int) -> np.ndarray:
    """Lists of 50 ranks that begin with these items; the rest is padding."""
    rows = np.full((4, 50), -1, dtype=np.int32)
    rows[:, 0] = firsts
    return rows


def test_slices() -> None:
    found = {name: np.flatnonzero(members).tolist() for name, members in slices(_cases(), TRAIN, ITEMS).items()}
    assert found == {
        "all": [0, 1, 2, 3],
        "head": [0, 1],  # items 0 and 1 are the fifth of ten
        "tail": [2, 3],
        "cold": [3],
        "tail_users": [0, 1, 2, 3],  # three of four would be too few
        "seen_pair": [0],
        "new_pair": [1, 2, 3],  # 4 was not followed by 0, nor 0 by 2; 1 came after 0, 8 after nothing
        "history_1-4": [0, 3],
        "history_5-9": [1],
        "history_10-19": [2],
    }
    dated = slices(_cases([True, False, False, False]), TRAIN, ITEMS)
    assert dated["same_day"].tolist() == [True, False, False, False]
    assert dated["later_day"].tolist() == [False, True, True, True]
    assert "later_day" not in slices(_cases([False] * 4), TRAIN, ITEMS)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([9, 3, 0, 4, 5], [1, 2, 3, 4]),
        ([7, 7, 2, 7, 9, 3, 7, 8, 7, 1], [0, 1, 2, 3, 5, 6, 8, 9]),
        ([5, 9, 5, 5, 5, 5], [0, 2, 3, 4, 5]),
        ([1, 6, 6, 6, 9], [0, 1, 2, 3]),  # all that tie with the longest of the shortest 80%
        ([1, 2, 6, 6, 6], [0, 1, 2, 3, 4]),
    ],
)
def test_tail_users_have_the_shortest_histories(lengths: list[int], expected: list[int]) -> None:
    targets, names = np.zeros(len(lengths), dtype=np.int32), tuple(map(str, lengths))
    histories = Sequences.from_lists([[0] * length for length in lengths])
    cases = Cases(names, names, histories, targets, None, targets > 0)
    assert np.flatnonzero(slices(cases, TRAIN, ITEMS)["tail_users"]).tolist() == expected


def test_a_pair_is_seen_where_it_follows_within_one_training_sequence() -> None:
    train = Sequences.from_lists([[0, 1], [], [2], [1, 0, 2, 1]])
    wanted = {(0, 1): True, (1, 0): True, (0, 2): True, (2, 1): True, (1, 2): False, (2, 2): False, (1, 1): False}
    histories = Sequences.from_lists([*([9, item] for item, _ in wanted), []])
    targets = np.array([*(target for _, target in wanted), 1], dtype=np.int32)
    names = tuple(map(str, range(len(targets))))
    cases = Cases(names, names, histories, targets, None, targets < 0)
    assert slices(cases, train, ITEMS)["seen_pair"].tolist() == [*wanted.values(), False]
    assert "seen_pair" not in slices(cases, Sequences.from_lists([]), ITEMS)


def test_without_a_case_there_is_no_slice() -> None:
    none = np.array([], dtype=np.int32)
    assert slices(Cases((), (), Sequences.from_lists([]), none, None, none > 0), TRAIN, ITEMS) == {}


def test_a_report_without_tail_users_is_read() -> None:
    """As reports were before that slice."""
    rows = evaluate({"one": _lists(1, 0, 0, 0)}, _cases(), TRAIN, ITEMS)
    assert "tail users" in summary(rows)[0]
    older = [row for row in rows if row["slice"] != "tail_users"]
    assert [name for name in summary(rows)[0] if name != "tail users"] == summary(older)[0]


def test_an_item_without_training_events_is_never_head() -> None:
    nothing = Sequences.from_lists([[]])
    assert "head" not in slices(_cases(), nothing, ITEMS)


def test_rows_are_the_metrics_of_their_slice() -> None:
    cases, lists = _cases(), {"one": _lists(1, 0, 0, 0), "two": _lists(9, 9, 9, 8)}
    rows = evaluate(lists, cases, TRAIN, ITEMS)
    keys = [(row["model"], row["slice"], row["metric"], row["k"]) for row in rows]
    assert len(set(keys)) == len(keys) == 2 * (10 * 3 + 2) * len(KS)
    assert {row["split"] for row in rows} == {"test"}
    by_key = dict(zip(keys, rows, strict=True))
    assert by_key["one", "all", "recall", 10]["value"] == 0.5
    assert by_key["one", "head", "recall", 10]["value"] == 1.0
    assert by_key["one", "tail", "recall", 10]["value"] == 0.0
    assert by_key["two", "cold", "ndcg", 1] == {
        "model": "two", "split": "test", "slice": "cold", "metric": "ndcg", "k": 1,
        "value": 1.0, "low": 1.0, "high": 1.0, "n": 1,
    }  # fmt: skip
    assert by_key["one", "all", "coverage", 5]["value"] == 0.2
    assert by_key["two", "all", "gini", 5]["low"] is None
    for name, members in slices(cases, TRAIN, ITEMS).items():
        ranks = rank_of_target(lists["one"], cases.targets)[members]
        for metric, per_case in METRICS.items():
            row = by_key["one", name, metric, 5]
            assert (row["value"], row["low"], row["high"], row["n"]) == interval(per_case(ranks, 5))


def test_compare_pairs_every_other_model_with_the_reference() -> None:
    lists = {"one": _lists(1, 0, 0, 0), "two": _lists(9, 9, 9, 8), "three": _lists(1, 0, 2, 8)}
    rows = compare(lists, _cases(), reference="one")
    assert [(row["model"], row["metric"], row["k"], row["value"], row["n"]) for row in rows] == [
        ("two", "recall_minus_one", 10, -0.25, 4),
        ("two", "ndcg_minus_one", 10, -0.25, 4),
        ("three", "recall_minus_one", 10, 0.5, 4),
        ("three", "ndcg_minus_one", 10, 0.5, 4),
    ]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_lists_that_do_not_answer_the_cases_are_refused() -> None:
    for wrong in (_lists(1, 0, 0, 0)[:3], _lists(1, 0, 0, 0)[:, :10]):
        with pytest.raises(ValueError, match=r"short: lists of shape .* for 4 cases; 50 ranks are read"):
            evaluate({"short": wrong}, _cases(), TRAIN, ITEMS)


def test_rank_leaves_out_what_was_seen_and_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = Sequences.from_lists([[0], [1, 0], [5], [], [0, 1, 2, 3, 4, 5, 6, 7]])
    score = Popularity.fit(TRAIN, ITEMS).score
    whole = rank(score, histories, exclude_seen=True, k=3)
    assert whole.tolist() == [[1, 2, 3], [2, 3, 4], [0, 1, 2], [0, 1, 2], [8, 9, -1]]
    for cells in (1, 2 * ITEMS, 100 * ITEMS):
        monkeypatch.setattr("genrec.evaluation.tables._CHUNK_CELLS", cells)
        many = rank(score, histories.take(np.tile(np.arange(5), 30)), exclude_seen=True, k=3)
        assert np.array_equal(many, np.tile(whole, (30, 1)))
    assert rank(score, histories, exclude_seen=False, k=2).tolist() == [[0, 1]] * 5
    assert rank(score, Sequences.from_lists([]), exclude_seen=True).shape == (0, 50)


def test_padded() -> None:
    assert padded(Sequences.from_lists([[3, 1, 2], [], [4]]), 2).tolist() == [[3, 1], [-1, -1], [4, -1]]


def test_the_table_has_a_line_a_model_and_the_share_of_the_best_possible() -> None:
    lists = {"one": _lists(1, 0, 0, 0), "Oracle": _lists(1, 0, 2, 8)}
    rows = evaluate(lists, _cases(), TRAIN, ITEMS)
    headings, lines = summary(rows)
    cells = {line[0]: dict(zip(headings, line, strict=True)) for line in lines}
    assert cells["one"]["of best possible"] == "50%"
    assert cells["Oracle"]["tail"] == "1.0000"
    assert cells["one"]["Recall@10"].startswith("0.5000 ±")
    assert "same day" not in headings
    text = format_table(rows)
    assert [line.split()[0] for line in text.splitlines()] == [
        "model",
        "─" * len(text.splitlines()[1].strip()),
        "one",
        "Oracle",
    ]
    assert "of best possible" not in format_table([row for row in rows if row["model"] == "one"])
    assert summary(rows, "valid") == (["model"], [])
