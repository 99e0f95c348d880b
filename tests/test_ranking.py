"""The rankings of `Ranker` on a tiny real model: each against its formula over the whole catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from worlds.random_ranker import random_ranker

from genrec.data.sequences import Sequences
from genrec.decoding import fused_search, node_scores
from genrec.decoding.beam import score_all
from genrec.decoding.filters import ItemFilter
from genrec.decoding.node_scores import NodeScorer
from genrec.ranking.config import FusionWeights, Ranking, RankingConfig
from genrec.ranking.ranker import Ranker
from genrec.semtok.errors import InputError
from genrec.sequential.frozen import log_probability

SIZES, N = (4, 4, 4), 30
HISTORIES = Sequences.from_lists([[3, 5, 9], [], [1], [28, 2, 2, 7]])
BEAMS = 6


@pytest.fixture(scope="module", params=["codes", "nodes"])
def ranker(request: pytest.FixtureRequest) -> Ranker:
    """By codes alone with few beams, and by node vectors."""
    return random_ranker(SIZES, N, beams=BEAMS, nodes=request.param == "nodes")


def everything(ranker: Ranker) -> tuple[NDArray[np.float32], ...]:
    """Log-probabilities [B, N] of codes, dense head, cooccurrence and sequence."""
    prompts = [ranker.vocabulary.prompt(ranker.codes[history]) for history in HISTORIES]
    assert ranker.head is not None
    assert ranker.cooccurrence is not None
    assert ranker.sequential is not None
    with torch.inference_mode():
        codes = score_all(ranker.scorer, ranker.trie, prompts)
        dense = ranker.head(ranker.scorer.start(prompts).hidden).log_softmax(1).numpy()
    sequential = log_probability(ranker.sequential, HISTORIES).numpy()
    return np.asarray(codes), dense, ranker.cooccurrence.log_probability(HISTORIES), sequential


@pytest.mark.parametrize("ranking", ["beam", "rerank", "dense", "fused"])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("rows", [2, 4096])
def test_each_ranking_is_its_formula(
    ranker: Ranker, ranking: Ranking, filtered: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the search of the fused list feeds few prefixes at once."""
    monkeypatch.setattr(fused_search, "_ROWS", rows)
    allowed, filters = np.ones((len(HISTORIES), N), dtype=bool), None
    if filtered:
        allowed[:, ::3] = False
        for row, history in zip(allowed, HISTORIES, strict=True):
            row[history] = False
        shared = ItemFilter.from_mask(ranker.trie, np.arange(N) % 3 != 0)
        filters = [shared.deny(history) for history in HISTORIES]
    found = ranker.rank(HISTORIES, k=5, ranking=ranking, filters=filters)
    batch = ranker.batch(HISTORIES, k=5, filters=filters)
    scores = ranker.component_scores(batch, [ranker.config.fusion_weights], exact=False)
    assert scores.retrieved is not None
    assert scores.codes is not None
    codes, dense, cooccurrence, sequential = everything(ranker)
    assert ranker.cooccurrence is not None
    for b, rows in enumerate(found.rows):
        retrieved = [row for row in scores.retrieved[b].tolist() if row >= 0]
        np.testing.assert_allclose(scores.codes[b, retrieved], codes[b, retrieved], atol=1e-4)
        assert allowed[b, retrieved].all()
        model = 0.8 * (0.3 * codes[b] + 0.7 * dense[b]) + 0.2 * sequential[b]
        score = {
            "beam": codes[b],
            "rerank": dense[b],
            "dense": dense[b],
            "fused": 0.6 * model + 0.4 * np.where(ranker.cooccurrence.known, cooccurrence[b], model),
        }[ranking]
        among = retrieved if ranking in ("beam", "rerank") else np.flatnonzero(allowed[b]).tolist()
        assert rows.tolist() == sorted(among, key=lambda i, score=score: -score[i])[:5]  # type: ignore[misc]


@pytest.mark.parametrize("product", [1, 10**9])
def test_items_that_the_beam_left_keep_the_score_of_where_it_left_them(ranker: Ranker, product: int) -> None:
    if not isinstance(ranker.scorer, NodeScorer):
        pytest.skip("by codes alone there is a floor")
    prompts = [ranker.vocabulary.prompt(ranker.codes[history]) for history in HISTORIES]
    codes, dense, _, _ = everything(ranker)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_scores, "_PRODUCT", product)
        few, all_of_them = (
            ranker.component_scores(ranker.batch(HISTORIES, k=1, beams=beams), [FusionWeights(0.0)], exact=False)
            for beams in (2, N)
        )
    assert few.codes is not None
    assert few.retrieved is not None
    assert all_of_them.codes is not None
    np.testing.assert_allclose(all_of_them.codes, codes, atol=1e-4)
    np.testing.assert_allclose(few.codes.logsumexp(1), np.zeros(len(HISTORIES)), atol=1e-5)
    state = ranker.scorer.start(prompts)
    for b in range(len(HISTORIES)):
        firsts = {int(code) for code in np.argsort(-state.log_probs[b].numpy(), kind="stable")[:2]}
        for row in range(N):
            if ranker.codes[row, 0] not in firsts:  # left before any code was fed: what the dense head says
                assert few.codes[b, row].item() == pytest.approx(dense[b, row], abs=1e-4)
        for first in firsts:
            below = ranker.codes[:, 0] == first
            mass = few.codes[b, torch.from_numpy(below)].logsumexp(0).item()
            assert mass == pytest.approx(float(state.log_probs[b, first]), abs=1e-4)
        retrieved = few.retrieved[b]
        np.testing.assert_allclose(few.codes[b, retrieved], codes[b, retrieved], atol=1e-4)


def test_without_exactness_an_item_that_was_not_retrieved_has_an_estimate(ranker: Ranker) -> None:
    weights = FusionWeights(0.7, 0.4, 0.2)
    lists = ranker.fused_lists(HISTORIES, weights=[weights], k=5, exact=False)[weights]
    found = ranker.component_scores(ranker.batch(HISTORIES, k=5), [weights], exact=False)
    assert found.codes is not None
    assert found.retrieved is not None
    assert lists.tolist() == torch.argsort(-found.fused(weights), dim=1, stable=True)[:, :5].tolist()
    for codes, retrieved in zip(found.codes, found.retrieved, strict=True):
        if not isinstance(ranker.scorer, NodeScorer):
            least = codes[retrieved[retrieved >= 0]].min()
            others = codes[~torch.isin(torch.arange(N), retrieved)]
            assert (others == torch.nextafter(least, torch.tensor(-torch.inf))).all()


def test_scorers_without_weight_are_not_asked(ranker: Ranker) -> None:
    batch, parts = (
        ranker.batch(HISTORIES, k=5),
        (ranker.trie, ranker.vocabulary, ranker.codes, ranker.head, ranker.config),
    )
    deaf = Ranker(None, *parts, ranker.cooccurrence, ranker.sequential)  # type: ignore[arg-type]
    lists = deaf.fused_lists(HISTORIES, weights=[FusionWeights(0.5, 0.3, 1.0)], k=5)
    assert lists == approx_lists(ranker.fused_lists(HISTORIES, weights=[FusionWeights(0.5, 0.3, 1.0)], k=5))
    step, fed = ranker.scorer.step, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker.scorer, "step", lambda *args: fed.append(1) or step(*args))
        found = ranker.component_scores(batch, [FusionWeights(1.0)], exact=False)
        assert not fed
        assert (found.codes, found.cooccurrence, found.sequential) == (None, None, None)
        ranker.component_scores(batch, [FusionWeights(0.9)], exact=False)
        assert fed


def approx_lists(lists: dict[FusionWeights, NDArray[np.int32]]) -> dict[FusionWeights, object]:
    """To be compared by `==`."""
    return {weights: pytest.approx(rows) for weights, rows in lists.items()}


def test_codes_dense_head_and_neighbours_read_the_last_items_alone(ranker: Ranker) -> None:
    parts = (ranker.scorer, ranker.trie, ranker.vocabulary, ranker.codes, ranker.head)
    short = Ranker(*parts, replace(ranker.config, max_items=2, sequential_weight=0.0), ranker.cooccurrence)
    found, of_last = short.rank(HISTORIES, k=N), short.rank(HISTORIES.last(2), k=N)
    assert [rows.tolist() for rows in found.rows] == [rows.tolist() for rows in of_last.rows]
    np.testing.assert_array_equal(found.scores, of_last.scores)


def test_many_shares_from_one_search(ranker: Ranker) -> None:
    weights = [
        FusionWeights(0.0),
        FusionWeights(1.0),
        FusionWeights(0.7, 0.4, 0.2),
        FusionWeights(0.0, 1.0),
        FusionWeights(0.0, 0.0, 1.0),
    ]
    lists = ranker.fused_lists(HISTORIES, weights=weights, k=BEAMS)
    for weight, ranking in zip(weights, ("beam", "dense", "fused"), strict=False):
        alone = ranker.rank(HISTORIES, k=BEAMS, ranking=ranking)  # type: ignore[arg-type]
        assert lists[weight].tolist() == [rows.tolist() for rows in alone.rows]
    _, _, cooccurrence, sequential = everything(ranker)
    assert lists[weights[4]].tolist() == np.argsort(-sequential, axis=1, kind="stable")[:, :BEAMS].tolist()
    assert ranker.cooccurrence is not None
    counted = [[row for row in rows if ranker.cooccurrence.known[row]] for rows in lists[weights[3]].tolist()]
    assert counted == [
        [row for row in np.argsort(-scores, kind="stable") if ranker.cooccurrence.known[row]][: len(rows)]
        for scores, rows in zip(cooccurrence, counted, strict=True)
    ]


def test_lists_do_not_depend_on_the_batch(ranker: Ranker) -> None:
    together = ranker.rank(HISTORIES, k=5)
    for i in range(len(HISTORIES)):
        assert ranker.rank(HISTORIES.take(np.array([i])), k=5).rows[0].tolist() == together.rows[i].tolist()


def test_short_lists_say_why(ranker: Ranker) -> None:
    few = ItemFilter.from_mask(ranker.trie, np.arange(N) < 3)
    found = ranker.rank(HISTORIES, k=5, filters=[few] * len(HISTORIES))
    assert [sorted(rows.tolist()) for rows in found.rows] == [[0, 1, 2]] * len(HISTORIES)
    assert found.reasons[0] == "3 of 30 items are allowed, 3 of them were found; 5 were asked for"


def test_what_is_missing_is_named(ranker: Ranker) -> None:
    parts = (ranker.scorer, ranker.trie, ranker.vocabulary, ranker.codes)
    with pytest.raises(InputError, match="no dense head"):
        Ranker(*parts, None, ranker.config).rank(HISTORIES, k=5)
    with pytest.raises(InputError, match="no co-occurrence counts"):
        Ranker(*parts, ranker.head, ranker.config).rank(HISTORIES, k=5)
    with pytest.raises(InputError, match="no recommender of a trained aligner"):
        Ranker(*parts, ranker.head, ranker.config, ranker.cooccurrence).rank(HISTORIES, k=5)
    without = Ranker(*parts, ranker.head, replace(ranker.config, cooccurrence_weight=0.0, sequential_weight=0.0))
    assert len(without.rank(HISTORIES, k=5).rows[0]) == 5
    with pytest.raises(InputError, match="k must be at least 1"):
        ranker.rank(HISTORIES, k=0)
    for ranking in ("beam", "dense"):
        with pytest.raises(InputError, match="beams must be at least 1, not 0"):
            ranker.rank(HISTORIES, k=5, ranking=ranking, beams=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="choose one of beam"):
        ranker.rank(HISTORIES, k=5, ranking="best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"), [("dense_weight", 1.5), ("cooccurrence_weight", -0.1), ("sequential_weight", 2), ("beams", 0)]
)
def test_bad_configuration(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{name}"):
        RankingConfig(**{name: value})  # type: ignore[arg-type]
