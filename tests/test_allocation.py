"""Hybrid allocation: the language model is asked for uncertain lists alone, and the rule against brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from worlds.random_ranker import random_ranker

from genrec.cli.config import FUSION, AlignerConfig, FitConfig
from genrec.data.cases import Cases
from genrec.data.config import DataConfig
from genrec.data.sequences import Sequences
from genrec.decoding.filters import ItemFilter
from genrec.evaluation.metrics import ndcg, rank_of_target
from genrec.ranking import ranker as ranker_module
from genrec.ranking.allocation import choose_allocation
from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.ranking.cooccurrence import COOCCURRENCE_WEIGHTS
from genrec.ranking.ranker import Ranker
from genrec.semtok.errors import InputError
from genrec.sequential.frozen import log_probability

SIZES, N, K = (4, 4, 4), 30, 5
HISTORIES = Sequences.from_lists([[3, 5, 9], [], [1], [28, 2, 2, 7], [29], [0, 1, 2, 3], [8, 8], [11, 4]])
WEIGHTS = [
    FusionWeights(0.7, 0.4, 0.2),  # codes, dense head and both others
    FusionWeights(1.0, 0.2, 0.5),  # no codes
    FusionWeights(0.0),  # the codes alone
    FusionWeights(0.5, 0.2),  # the sequential scorer for certain lists only
]


@pytest.fixture(scope="module", params=["codes", "nodes"])
def whole(request: pytest.FixtureRequest) -> Ranker:
    return random_ranker(SIZES, N, beams=6, nodes=request.param == "nodes")


def allocated(ranker: Ranker, weights: FusionWeights, share: float, entropy: float | None = None) -> Ranker:
    """The same ranker with a share of the lists for the language model."""
    config = replace(
        ranker.config, dense_weight=weights.dense, cooccurrence_weight=weights.cooccurrence,
        sequential_weight=weights.sequential,
    )  # fmt: skip
    if share < 1:
        config = replace(
            config, language_model_share=share, language_model_entropy=entropy, certain_cooccurrence_weight=0.3
        )
    parts = (ranker.scorer, ranker.trie, ranker.vocabulary, ranker.codes, ranker.head, config)
    return Ranker(*parts, ranker.cooccurrence, ranker.sequential)


def cheap_scores(ranker: Ranker, cooccurrence_weight: float) -> NDArray[np.float64]:
    """Of the sequential scorer and co-occurrence, item by item."""
    assert ranker.cooccurrence is not None
    assert ranker.sequential is not None
    sequential = log_probability(ranker.sequential, HISTORIES).numpy().astype(np.float64)
    counts = ranker.cooccurrence.log_probability(HISTORIES.last(ranker.config.max_items))
    mixed = (1 - cooccurrence_weight) * sequential + cooccurrence_weight * counts
    return np.where(ranker.cooccurrence.known, mixed, sequential)


def entropies(ranker: Ranker) -> NDArray[np.float64]:
    """Nats of the softmax of those scores, without the items of the history."""
    scores = cheap_scores(ranker, 0.3)
    for row, history in zip(scores, HISTORIES, strict=True):
        row[history] = -1e3
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1))).sum(1))


def filters(ranker: Ranker) -> list[ItemFilter]:
    shared = ItemFilter.from_mask(ranker.trie, np.arange(N) % 3 != 0)
    return [shared.deny(history) for history in HISTORIES]


def same(ours: Any, theirs: Any, place: int) -> None:
    """The list of a history is the same in both."""
    assert ours.rows[place].tolist() == theirs.rows[place].tolist()
    a, b = (each.scores[each.rows.offsets[place] : each.rows.offsets[place + 1]] for each in (ours, theirs))
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("cells", [1 << 24, 3 * N])
def test_uncertain_lists_are_the_whole_fused_ones_and_certain_ones_ask_nothing(
    whole: Ranker, weights: FusionWeights, filtered: bool, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a filter allows; also where three histories are scored at once."""
    monkeypatch.setattr(ranker_module, "_DENSE_CELLS", cells)
    allowed = filters(whole) if filtered else None
    entropy = entropies(whole)
    order = np.sort(entropy)
    threshold = float(order[len(order) // 2 - 1 : len(order) // 2 + 1].mean())
    of_all = allocated(whole, weights, 1.0).rank(HISTORIES, k=K, beams=N, filters=allowed)
    scores = cheap_scores(whole, 0.3)
    ranker = allocated(whole, weights, 0.5, threshold)
    told: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        start, read = whole.scorer.start, []
        patch.setattr(whole.scorer, "start", lambda prompts: read.extend(prompts) or start(prompts))
        # With so many beams no second walk starts again.
        found = ranker.rank(HISTORIES, k=K, beams=N, filters=allowed, progress=told.append)
    assert len(read) == (entropy > threshold).sum() == len(HISTORIES) // 2
    assert sum(told) == len(HISTORIES)
    for place in range(len(HISTORIES)):
        if entropy[place] > threshold:
            same(found, of_all, place)
        else:
            may = np.ones(N, dtype=bool)
            if filtered:
                may[::3] = False
                may[HISTORIES[place]] = False
            best = sorted(np.flatnonzero(may).tolist(), key=lambda row, own=scores[place]: -own[row])[:K]  # type: ignore[misc]
            assert found.rows[place].tolist() == best
            own = found.scores[found.rows.offsets[place] : found.rows.offsets[place + 1]]
            np.testing.assert_allclose(own, scores[place, best], atol=1e-4)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_share_of_one_is_the_whole_list_and_of_nothing_the_cheap_one(whole: Ranker, weights: FusionWeights) -> None:
    of_all = allocated(whole, weights, 1.0).rank(HISTORIES, k=K)
    everybody, nobody = allocated(whole, weights, 0.9, 0.0), allocated(whole, weights, 0.0)
    nobody.scorer = None  # type: ignore[assignment]
    asked, cheap = everybody.rank(HISTORIES, k=K), nobody.rank(HISTORIES, k=K)
    lists = whole.fused_lists(HISTORIES, weights=[FusionWeights(1.0, 0.3, 1.0)], k=K)
    for place in range(len(HISTORIES)):
        same(asked, of_all, place)
    assert [rows.tolist() for rows in cheap.rows] == next(iter(lists.values())).tolist()
    assert len(nobody.rank(Sequences.from_lists([]), k=K)) == 0


def test_other_rankings_and_weights_without_a_language_model_are_as_before(whole: Ranker) -> None:
    ranker = allocated(whole, WEIGHTS[0], 0.0)
    for ranking in ("beam", "rerank", "dense"):
        ours, theirs = (each.rank(HISTORIES, k=K, ranking=ranking) for each in (ranker, whole))  # type: ignore[arg-type]
        for place in range(len(HISTORIES)):
            same(ours, theirs, place)
    cheap = FusionWeights(1.0, 0.6, 1.0)  # not the 0.3 of certain lists
    ours, theirs = (allocated(whole, cheap, share).rank(HISTORIES, k=K) for share in (0.0, 1.0))
    for place in range(len(HISTORIES)):
        same(ours, theirs, place)


def test_a_list_does_not_depend_on_who_else_is_asked_nor_on_filters(whole: Ranker) -> None:
    ranker = allocated(whole, WEIGHTS[0], 0.5, float(np.median(entropies(whole))))
    together = ranker.rank(HISTORIES, k=K)
    for place in range(len(HISTORIES)):
        alone = ranker.rank(HISTORIES.take(np.array([place])), k=K)
        assert alone.rows[0].tolist() == together.rows[place].tolist()
    few = ItemFilter.from_mask(ranker.trie, np.arange(N) < 3)
    parts, filtered = (
        ranker.component_scores(
            ranker.batch(HISTORIES, k=K, filters=allowed), [ranker.config.certain_weights], exact=True
        )
        for allowed in (None, [few] * len(HISTORIES))
    )
    assert ranker.certain(parts, HISTORIES).tolist() == ranker.certain(filtered, HISTORIES).tolist()
    assert ranker.certain(parts, HISTORIES).any()
    assert not ranker.certain(parts, HISTORIES).all()


def test_the_allocation_is_what_brute_force_chooses(whole: Ranker) -> None:
    rng = np.random.default_rng(1)
    histories = Sequences.from_lists([rng.integers(N - 5, size=rng.integers(1, 6)) for _ in range(40)])
    ids = tuple(map(str, range(40)))
    cases = Cases(ids, ids, histories, rng.integers(N, size=40).astype(np.int32), None, np.zeros(40, dtype=bool))
    config = replace(whole.config, language_model_share=0.3)
    chosen = choose_allocation(whole, config, cases, exclude_seen=True)

    def gain(weight: float) -> float:
        lists = whole.fused_lists(
            histories, weights=[FusionWeights(1.0, weight, 1.0)], k=10,
            filters=[ItemFilter(whole.trie).deny(history) for history in histories],
        )  # fmt: skip
        return float(ndcg(rank_of_target(next(iter(lists.values())), cases.targets), 10).mean())

    assert chosen.certain_cooccurrence_weight == max(COOCCURRENCE_WEIGHTS, key=lambda each: (gain(each), -each))
    asked = whole.entropies(histories, chosen.certain_weights) > chosen.language_model_entropy
    assert asked.sum() == 12
    fixed = replace(config, certain_cooccurrence_weight=0.1, language_model_entropy=2.5)
    assert choose_allocation(whole, fixed, cases, exclude_seen=True) == fixed
    nobody = choose_allocation(whole, replace(config, language_model_share=0.0), cases, exclude_seen=True)
    assert nobody.language_model_entropy is None


def test_what_does_not_go_is_refused(whole: Ranker) -> None:
    for name, value in (("language_model_share", 1.5), ("language_model_entropy", -1.0)):
        with pytest.raises(InputError, match=f"^{name}"):
            RankingConfig(**{name: value})  # type: ignore[arg-type]
    for name in ("language_model_entropy", "certain_cooccurrence_weight"):
        with pytest.raises(InputError, match=f"^{name}.*language_model_share below 1"):
            RankingConfig(**{name: 0.5})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without a trained aligner"):
        FitConfig(
            "run",
            DataConfig(__file__, __file__),
            aligner=AlignerConfig(FUSION),
            ranking=RankingConfig(language_model_share=0.5),
        )
    ranker = allocated(whole, WEIGHTS[0], 0.5)
    with pytest.raises(InputError, match="no language_model_entropy was chosen"):
        ranker.rank(HISTORIES, k=K)
    with pytest.raises(InputError, match="--retrieval exact"):
        ranker.use_candidates()
    ranker.sequential = None
    with pytest.raises(InputError, match=r"--ranking\.language_model_share 1"):
        ranker.rank(HISTORIES, k=K)
