"""Lists made of candidates against the exact ones: recall, filters, and what is scored exactly all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from worlds.random_ranker import random_ranker

from genrec.data.sequences import Sequences
from genrec.decoding.filters import ItemFilter
from genrec.inference.batch.command import recommend_all
from genrec.inference.batch.config import RecommendConfig
from genrec.inference.opening import open_parts, open_ranker
from genrec.inference.recommender import Recommender
from genrec.ranking import candidates
from genrec.ranking.candidates import VectorScorer
from genrec.ranking.config import FusionWeights, Ranking
from genrec.ranking.ranker import Ranker
from genrec.recommendations import RankedRows
from genrec.run import Run
from genrec.semtok import nearest
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json

pytest.importorskip("faiss")

N, BEAMS = 3000, 8
HISTORIES = Sequences.from_lists(
    [[], [1], *(np.random.default_rng(seed).integers(N, size=seed).tolist() for seed in range(2, 20))]
)


@pytest.fixture(scope="module")
def exact() -> Ranker:
    return random_ranker((16, 16, 16), N, beams=BEAMS)


@pytest.fixture(scope="module")
def approximate() -> Ranker:
    ranker = random_ranker((16, 16, 16), N, beams=BEAMS)
    ranker.use_candidates()
    return ranker


@pytest.fixture
def few_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that lists do miss items."""
    monkeypatch.setattr(candidates, "PROPOSED", 60)


def history_filters(ranker: Ranker, mask: NDArray[np.bool_] | None = None) -> list[ItemFilter]:
    shared = ItemFilter(ranker.trie) if mask is None else ItemFilter.from_mask(ranker.trie, mask)
    return [shared.deny(history) for history in HISTORIES]


def recall(found: RankedRows, wanted: RankedRows) -> float:
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found.rows, wanted.rows, strict=True)]))


@pytest.mark.parametrize("ranking", ["dense", "fused"])
@pytest.mark.parametrize("filtered", [False, True])
def test_lists_are_the_exact_ones_where_everything_is_proposed(
    exact: Ranker, approximate: Ranker, ranking: Ranking, filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "PROPOSED", N)
    monkeypatch.setattr(nearest.ItemIndex, "search", whole_search)
    filters = history_filters(exact, np.arange(N) % 3 != 0) if filtered else None
    wanted = exact.rank(HISTORIES, k=10, ranking=ranking, filters=filters)
    of_theirs = history_filters(approximate, np.arange(N) % 3 != 0) if filtered else None
    found = approximate.rank(HISTORIES, k=10, ranking=ranking, filters=of_theirs)
    assert [rows.tolist() for rows in found.rows] == [rows.tolist() for rows in wanted.rows]
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def whole_search(
    index: nearest.ItemIndex, queries: NDArray[np.float32], m: int, allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """All items, in any order, for an index that reads all of its lists."""
    rows = np.arange(index.n_items) if allowed is None else np.flatnonzero(allowed)
    return np.tile(rows, (len(queries), 1))


@pytest.mark.parametrize(
    "weights", [FusionWeights(1.0), FusionWeights(0.7, 0.4, 0.2), FusionWeights(0.0, 0.0, 1.0), FusionWeights(0.3)]
)
@pytest.mark.usefixtures("few_proposals")
def test_most_of_the_exact_list_is_found(exact: Ranker, approximate: Ranker, weights: FusionWeights) -> None:
    lists = exact.fused_lists(HISTORIES, weights=[weights], k=10, filters=history_filters(exact))[weights]
    rows = np.full((len(HISTORIES), 10), -1, dtype=np.int64)
    batch = approximate.batch(HISTORIES, k=10, filters=history_filters(approximate))
    for users, found in approximate._candidate_lists(batch, weights):
        rows[users] = found[0]
    assert (rows >= 0).all()
    read = np.flatnonzero(HISTORIES.lengths) if weights.sequential == 1 else np.arange(len(HISTORIES))  # else all tie
    assert np.mean([np.isin(lists[i], rows[i]).mean() for i in read]) > 0.8
    assert not any(np.isin(have, history).any() for have, history in zip(rows, HISTORIES, strict=True))


@pytest.mark.usefixtures("few_proposals")
def test_what_is_forbidden_is_in_no_list_and_few_allowed_items_are_all_found(
    exact: Ranker, approximate: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    for share, alone in ((0.6, False), (0.1, True), (0.002, True), (0.002, False), (0.0, False)):
        mask = rng.random(N) < share
        monkeypatch.setattr(candidates, "reads_all", (lambda allowed: True) if alone else (lambda allowed: False))
        wanted = exact.rank(HISTORIES, k=10, filters=history_filters(exact, mask))
        found = approximate.rank(HISTORIES, k=10, filters=history_filters(approximate, mask))
        for rows, history in zip(found.rows, HISTORIES, strict=True):
            assert mask[rows].all()
            assert not np.isin(rows, history).any()
        assert found.rows.lengths.tolist() == wanted.rows.lengths.tolist()
        assert found.reasons == wanted.reasons
        if share < 0.5:
            assert recall(found, wanted) > 0.95 if len(wanted.rows.values) else not len(found.rows.values)


@pytest.mark.usefixtures("few_proposals")
def test_users_of_different_filters_are_ranked_together(approximate: Ranker) -> None:
    halves = (ItemFilter.from_mask(approximate.trie, np.arange(N) % 2 == i) for i in (0, 1))
    sets = [ItemFilter(approximate.trie), *halves]
    filters = [sets[i % 3].deny(history) for i, history in enumerate(HISTORIES)]
    together = approximate.rank(HISTORIES, k=10, filters=filters)
    for i in range(len(HISTORIES)):
        alone = approximate.rank(HISTORIES.take(np.array([i])), k=10, filters=[filters[i]])
        assert alone.rows[0].tolist() == together.rows[i].tolist()
        assert filters[i].allowed_mask()[together.rows[i]].all()


@pytest.mark.usefixtures("few_proposals")
def test_the_same_ranker_made_again_gives_the_same_bytes(approximate: Ranker) -> None:
    again = random_ranker((16, 16, 16), N, beams=BEAMS)
    again.use_candidates()
    a, b = approximate.rank(HISTORIES, k=10), again.rank(HISTORIES, k=10)
    assert a.rows.values.tobytes() == b.rows.values.tobytes()
    assert a.scores.tobytes() == b.scores.tobytes()


def test_lists_that_candidates_do_not_fill_are_made_exactly(
    exact: Ranker, approximate: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest.ItemIndex, "search", lambda self, queries, *_: np.full((len(queries), 1), -1))
    found, wanted = (ranker.rank(HISTORIES, k=10, ranking="dense") for ranker in (approximate, exact))
    assert found.rows.values.tolist() == wanted.rows.values.tolist()
    assert found.scores.tobytes() == wanted.scores.tobytes()


def test_evaluation_beam_and_node_vectors_stay_exact(exact: Ranker, approximate: Ranker) -> None:
    weights = exact.config.fusion_weights
    a, b = (ranker.fused_lists(HISTORIES, weights=[weights], k=10)[weights] for ranker in (exact, approximate))
    assert a.tolist() == b.tolist()
    for ranking in ("beam", "rerank"):
        found, wanted = (ranker.rank(HISTORIES, k=5, ranking=ranking) for ranker in (approximate, exact))  # type: ignore[arg-type]
        assert found.scores.tobytes() == wanted.scores.tobytes()
    nodes = random_ranker((4, 4, 4), 30, beams=6, nodes=True)
    nodes.use_candidates()
    assert nodes._candidates is None


def test_log_probabilities_are_estimated_from_the_nearest_and_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_SAMPLED", 2000)
    torch.manual_seed(0)
    vectors, queries = torch.randn(20_000, 8), torch.randn(30, 8)
    scorer = VectorScorer(vectors)
    exact = (queries @ vectors.T).log_softmax(1)
    rows = np.arange(0, 20_000, 7)
    found = scorer.log_probability_of(queries, rows, scorer.nearest(queries, 500))
    difference = found - exact[:, rows]
    assert difference.abs().mean() < 0.1
    assert difference.diff(dim=1).abs().max() < 1e-4  # one number a user
    unknown = scorer.log_probability_of(queries, rows, np.full((30, 1), -1))
    assert (unknown - exact[:, rows]).abs().mean() > 2 * difference.abs().mean()
    all_equal = scorer.log_probability_of(torch.zeros(1, 8), rows, scorer.nearest(torch.zeros(1, 8), 500))
    torch.testing.assert_close(all_equal, torch.full_like(all_equal, -np.log(20_000)))


def test_candidates_of_cooccurrence_are_the_most_probable(exact: Ranker) -> None:
    counts = exact.cooccurrence
    assert counts is not None
    every, rows = counts.log_probability(HISTORIES), np.arange(0, N, 3)
    some = counts.log_probability_of(HISTORIES, rows)
    assert np.isnan(some).tolist() == [(~counts.known[rows]).tolist()] * len(HISTORIES)
    np.testing.assert_allclose(some[:, counts.known[rows]], every[:, rows][:, counts.known[rows]], atol=1e-5)
    for allowed in (None, np.arange(N) % 2 == 0):
        proposed = counts.proposals(HISTORIES, 20, allowed)
        scores = every if allowed is None else np.where(allowed, every, -np.inf)
        for mine, score in zip(proposed, scores, strict=True):
            kept = mine[mine >= 0]
            assert allowed is None or allowed[kept].all()
            assert np.sort(score[np.unique(kept)])[-20:] == pytest.approx(np.sort(score)[-20:], abs=1e-5)


def test_a_run_is_exact_unless_it_is_large_or_asked(tiny_run: Path) -> None:
    run = Run(tiny_run)
    default, plain = Recommender.from_pretrained(tiny_run), Recommender.from_pretrained(tiny_run, retrieval="exact")
    indexed = Recommender.from_pretrained(tiny_run, retrieval="approximate")
    assert (default.retrieval, plain.retrieval, indexed.retrieval) == ("exact", "exact", "approximate")
    assert open_ranker(run)._candidates is None
    histories = run.split().test.histories
    a, b, c = (each.recommend_rows(histories, k=10) for each in (default, plain, indexed))
    assert a.scores.tobytes() == b.scores.tobytes()
    assert [rows.tolist() for rows in a.rows] == [rows.tolist() for rows in c.rows]  # a small one is read whole
    with pytest.raises(InputError, match="retrieval 'fast'"):
        open_parts(run, "torch", "cpu", "float32", "fast")  # type: ignore[arg-type]


def test_a_job_goes_on_in_its_own_kind_of_lists(tiny_run: Path, tmp_path: Path) -> None:
    job = RecommendConfig(tiny_run, out=tmp_path / "lists", k=3, retrieval="approximate")
    recommend_all(job)
    assert read_json(tmp_path / "lists/job.json")["about"]["retrieval"] == "approximate"
    assert recommend_all(job)["users"] > 0
    with pytest.raises(InputError, match=r"holds another job: .*retrieval"):
        recommend_all(replace(job, retrieval="auto"))
    with pytest.raises(InputError, match=r"^retrieval"):
        RecommendConfig(tiny_run, retrieval="fast")  # type: ignore[arg-type]


def test_similar_items_by_an_index(tiny_run: Path) -> None:
    exact = Recommender.from_pretrained(tiny_run)
    indexed = Recommender.from_pretrained(tiny_run, retrieval="approximate")
    items, allowed = list(exact.catalog.item_ids[:10]), list(exact.catalog.item_ids[5:60])
    for only in (None, allowed):
        a, b = (each.similar(items, 7, items_to_recommend=only) for each in (exact, indexed))
        assert a.rows.values.tolist() == b.rows.values.tolist()
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    vectors = exact._parts.unit_vectors
    for item, rows in zip(items, exact.similar(items, 7).rows, strict=True):
        (row,) = exact.catalog.rows([item])
        cosines = vectors @ vectors[row]
        cosines[row] = -np.inf
        assert rows.tolist() == np.argsort(-cosines, kind="stable")[:7].tolist()
    with pytest.raises(InputError, match="k must be at least 1"):
        indexed.similar(items[0], 0)
