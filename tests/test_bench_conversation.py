"""`scripts/bench_conversation.py`: what is read of a dialogue, the join with MovieLens, and folds that do not leak."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.semtok.catalog import Catalog

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
bench = importlib.import_module("bench_conversation")

TITLES = ("Alien (1979)", "The Birds (1963)", "Amélie (2001)", "Saw (2004)", "Heat", "Big (1988)")


@pytest.fixture(scope="module")
def movies() -> Catalog:
    return Catalog(tuple("abcdef"), TITLES, pl.DataFrame(), np.zeros(6, dtype=np.bool_))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (["I loved Saw (2004)"], False),
        (["I didn't like Saw (2004). I like Big (1988)"], True),
        (["I didn't like Big (1988). Saw (2004) was fun"], False),
        (["hi", "Have you seen Saw (2004)?", "Yes, too violent for me"], True),
        (["hi", "I don't like Saw (2004)", "I do"], False),  # what the recommender dislikes says nothing
        (["hi"], False),
    ],
)
def test_what_is_said_of_a_movie(said: list[str], answer: bool) -> None:
    assert bench.disliked("Saw (2004)", said) is answer


def test_a_turn_is_a_history_and_its_targets(movies: Catalog, tmp_path: Path) -> None:
    context = ["I hate Saw (2004)", "Alien (1979) or Big (1988)?", "Alien (1979) was good"]
    line = {"dialog_id": "1", "context": context, "mentioned": ["a", "d", "f", "a"], "new_targets": ["b"]}
    (tmp_path / "turns.jsonl").write_text(json.dumps(line) + "\n")
    (turn,) = bench.read_turns(tmp_path / "turns.jsonl", movies)
    assert (turn.named, turn.liked, turn.targets) == ((3, 5, 0), (5, 0), (1,))
    assert bench.without_titles(turn, movies.titles, context[2:]).strip() == "was good"


def test_logs_are_joined_by_title_and_year(movies: Catalog, tmp_path: Path) -> None:
    names = [
        "Alien (1979)",
        "Birds, The (1963)",
        "Amelie (Fabuleux destin, Le) (2001)",
        "Saw (2003)",
        "Saw (1990)",
        "Heat (1995)",
    ]
    rows = [{"item_id": str(row), "title": name} for row, name in enumerate(names)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    events = ["u,5,3", "u,0,1", "u,1,2", "v,4,1", "v,3,2", "v,2,9"]
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]))
    assert [row.tolist() for row in bench.read_log(tmp_path, movies)] == [[0, 1, 4], [3, 2]]


def turns_of(count: int) -> list[object]:
    """Each dialogue names movie 0 or 1 and recommends one of four others that belong to it."""
    rng, turns = np.random.default_rng(0), []
    for dialogue in range(count):
        named = dialogue % 2
        turns.append(bench.Turn(str(dialogue), ("hi",), (named,), (named,), (2 + 4 * named + int(rng.integers(4)),)))
    return turns


def test_a_turn_is_scored_by_other_dialogues_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "NEGATIVES", 6)
    turns = turns_of(60)
    fixed = {"noise: x": np.random.default_rng(1).random((60, 10), dtype=np.float32)}
    fusion = bench.Fusion(turns, 10, fixed)
    for away, counted in fusion._counted.items():
        others = [turn for turn, fold in zip(turns, fusion._folds, strict=True) if fold not in away]
        log = np.bincount([row for turn in others for row in (*turn.named, *turn.targets)], minlength=10)
        np.testing.assert_allclose(counted["dialogues: named"][0], np.log(1000 * log / len(others) + 0.3), rtol=1e-5)
    ranks, weights = fusion.ranks(fusion.columns)
    assert all(place <= 4 for (place,) in ranks)  # the four that belong to the named movie come first
    assert weights["dialogues: together"] > abs(weights["noise: x"])
    assert bench.measured(fusion.turns, ranks)["recall"] == 1.0


def test_figures_by_hand() -> None:
    turns = [bench.Turn("a", (), (), (), (1, 2)), bench.Turn("a", (), (), (), (3,)), bench.Turn("b", (), (), (), (4,))]
    value = bench.measured(turns, [np.array([1, 11]), np.array([3]), np.array([12])])
    assert value["recall"] == pytest.approx(2 / 4)
    assert value["ndcg"] == pytest.approx((1 + 1 / 2) / 4)
    # Sums of dialogues: (2 hits of 3, 0 of 1) less half of the counts are 0.5 and -0.5
    assert value["recall_error"] == pytest.approx(np.sqrt(0.5) / 4)
