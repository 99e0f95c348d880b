"""The report of a run: every ranking of it beside baselines, on the test split; for `genrec fit` and `genrec evaluate`.

It reads nothing but the run's own folder, and of that the items that the run was fitted on: items that were added since
are nobody's target, and some of the models do not know them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from tqdm import tqdm

from genrec.data.cases import Cases
from genrec.decoding.filters import ItemFilter, WhereFilters
from genrec.evaluation.baselines import BASELINES, ContentKnn, Random
from genrec.evaluation.metrics import rank_of_target
from genrec.evaluation.report import Sample, write_report
from genrec.evaluation.search_diagnosis import search_diagnosis
from genrec.evaluation.tables import DEFAULT, KS, RANKS, Lists, compare, evaluate, padded, rank, tested_cases
from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.ranking.cooccurrence import Cooccurrence, Score, best_weight, mixture
from genrec.ranking.ranker import Ranker
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import write_atomic
from genrec.semtok.vectors import unit_rows
from genrec.sequential.sasrec import SasRec
from genrec.stages import Stage, bring_up_to_date

NEEDS = ("catalog", "split", "vectors/text", "vectors/item", "semtok", "lm")
SAMPLES, LAST, FIRST = 3, 5, 5  # cases that are shown, items of their histories, and of their lists
OpenRanker = Callable[[Run], Ranker]


def report_stage(run: Run, open_ranker: OpenRanker) -> Stage:
    """The stage of a run.

    Args:
        open_ranker: opens the run's model.
    """
    config = {"title": run.path.name, "ranks": max(KS), "samples": SAMPLES}
    return Stage("report", config, needs(run), partial(_report, open_ranker))


def needs(run: Run) -> tuple[str, ...]:
    """The folders that the report of a run reads: SASRec, a baseline, where the run has trained it."""
    return (*NEEDS, "vectors/collaborative") if run.has_collaborative else NEEDS


def update_report(run: Run, open_ranker: OpenRanker) -> None:
    """Make the report of a finished run again where it is out of date; nothing is trained, and only the run is read.

    Raises:
        InputError: a stage of the run is unfinished or was made of another one than stands there, or another process
            works on the run.
    """
    run.settings()
    stage = report_stage(run, open_ranker)
    with contextlib.suppress(InputError), Run.open(run.path) as opened:  # which takes no right to write
        opened.check_finished(needs(opened))
        if stage.is_current(opened):
            return
    with run.locked():
        run.check_finished(needs(run))
        bring_up_to_date(run, stage)


def _report(open_ranker: OpenRanker, run: Run, folder: Path) -> None:
    lists = {**_baseline_lists(run), **_sequential_lists(run)}
    sequential = list(_sequential_models(run))
    ranker = open_ranker(run)
    filters = _filters(run, ranker)
    lists |= _ranker_lists(run, ranker, filters)
    cases, train, n_items = _cases(run), run.split().train, run.fitted_items
    rows = evaluate(lists, cases, train, n_items)
    rows += search_diagnosis(ranker, cases, filters)
    for name in ("Markov", "ItemKnn", *(part for model in sequential for part in (model, f"{model} + co-occurrence"))):
        rows += compare(lists, cases, reference=name)
    trained = ("vectors/collaborative", "vectors/item", "lm")
    training = [row for part in trained if part in needs(run) for row in run.training_log(part)]
    title, notes = f"Report of {run.path.name}", _notes(run, ranker.config)
    shown = next((ranked for name, ranked in lists.items() if name.endswith(DEFAULT)), None)
    write_report(
        folder, rows, training_log=training, quality=run.quality(), title=title, notes=notes,
        samples=[] if shown is None else _samples(run, shown),
    )  # fmt: skip
    ranks = {name: rank_of_target(ranked, cases.targets).astype(np.uint8) for name, ranked in lists.items()}
    write_atomic(folder / RANKS, save({name.removesuffix(DEFAULT): ranks_of for name, ranks_of in ranks.items()}))


def _cases(run: Run) -> Cases:
    return tested_cases(run.split().test, run.fitted_items)


def _samples(run: Run, ranked: NDArray[np.int32]) -> list[Sample]:
    """The first cases of different users, with their lists [B, K]."""
    cases, titles = _cases(run), run.catalog().titles
    first = list({user: case for case, user in reversed(list(enumerate(cases.user_ids)))}.values())[::-1][:SAMPLES]
    return [
        Sample(
            [titles[row] for row in cases.histories[case][-LAST:].tolist()],
            titles[int(cases.targets[case])],
            [titles[row] for row in ranked[case][:FIRST].tolist() if row >= 0],
        )
        for case in first
    ]


def _notes(run: Run, ranking: RankingConfig) -> list[str]:
    """On the protocol."""
    split, refit, tested = run.split(), run.selection_run is not None, len(_cases(run))
    drawn = "" if tested == len(split.test) else f"{tested:,}, drawn by seed, of "
    return [
        f"Split {split.name}: {drawn}{len(split.test):,} test cases over {run.fitted_items:,} items; the whole "
        "catalogue is ranked.",
        f"Fitted on training items {'and validation items' if refit else 'only'}; epochs and the "
        f"fusion weights ({ranking.fusion_weights}) were chosen on validation"
        f"{' by the run before' if refit else ''}; the test split was read once.",
        *(
            [f"Fused lists ask the language model for a share of {ranking.language_model_share:g} of validation cases."]
            if ranking.language_model_share < 1
            else []
        ),
        *([] if run.has_collaborative else ["Baselines are those that need no training: --baseline sasrec adds one."]),
        "Items of the history are left out of every list."
        if run.exclude_seen
        else "Items of the history may be listed.",
    ]


def _baseline_lists(run: Run) -> dict[str, Any]:
    split, n_items = run.split(), run.fitted_items
    scores: dict[str, Score] = {name: kind.fit(split.train, n_items).score for name, kind in BASELINES.items()}
    scores["ContentKnn"] = ContentKnn(unit_rows(run.text_vectors().values[:n_items])).score
    scores["Random"] = Random(n_items).score
    return _ranked(run, scores)


def _sequential_lists(run: Run) -> dict[str, Any]:
    """Of each sequential model, alone and beside co-occurrence at the weight that won on validation."""
    models, cooccurrence = _sequential_models(run), Cooccurrence.fit(run.split().train, run.fitted_items)
    selection = run.selection_run or run
    split, counted = selection.split(), Cooccurrence.fit(selection.split().train, run.fitted_items)
    scores: dict[str, Score] = {}
    for name, score in models.items():
        weighed = score if selection is run else _sequential_models(selection)[name]
        weight = best_weight(weighed, counted, split.valid, selection.exclude_seen)
        scores |= {name: score, f"{name} + co-occurrence": mixture(score, cooccurrence, weight)}
    return _ranked(run, scores)


def _ranked(run: Run, scores: dict[str, Score]) -> dict[str, Any]:
    histories, exclude_seen = _cases(run).histories, run.exclude_seen
    return {name: rank(score, histories, exclude_seen=exclude_seen) for name, score in scores.items()}


def _filters(run: Run, ranker: Ranker) -> list[ItemFilter]:
    """What each test case's list may hold: fitted items, but for those of the history."""
    fitted = np.arange(len(run.catalog())) < run.fitted_items
    shared = WhereFilters(ranker.trie, run.catalog())() & ItemFilter.from_mask(ranker.trie, fitted)
    return [shared.deny(history) if run.exclude_seen else shared for history in _cases(run).histories]


def _ranker_lists(run: Run, ranker: Ranker, filters: list[ItemFilter]) -> Lists:
    """Lists of every ranking of the run over the items that it was fitted on."""
    cases, best = _cases(run), ranker.config.fusion_weights
    rankings = {
        "beam": FusionWeights(0.0),
        "dense": FusionWeights(1.0),
        "beam and dense": FusionWeights(best.dense),
        "fused": best,
    }
    with tqdm(desc="ranking the test cases", unit="case", total=len(cases), delay=2, disable=None) as bar:

        def told(more: int) -> None:
            bar.update(more)

        lists = ranker.fused_lists(
            cases.histories,
            weights=list(dict.fromkeys(rankings.values())),
            k=max(KS),
            filters=filters,
            progress=told,
        )
    rows = {name: lists[weights] for name, weights in rankings.items()}
    if ranker.config.language_model_share < 1:  # as they are served
        served = ranker.rank(cases.histories, k=max(KS), ranking="fused", filters=filters)
        rows["fused"] = padded(served.rows)
    default = ranker.config.ranking
    return {f"genrec {name}{DEFAULT if name == default else ''}": each for name, each in rows.items()}


def _sequential_models(run: Run) -> dict[str, Score]:
    """SASRec of ID vectors and the model that the run's aligner was trained with, where they are: float32 [B, N]."""
    n_items = run.fitted_items
    models: dict[str, Score] = {}
    if run.has_collaborative:
        models["SASRec"] = SasRec.load(run.verified("vectors/collaborative")).score
    aligned = run.sequential()
    if aligned is not None:
        models[f"{aligned.backbone.name}, aligned"] = lambda histories: aligned.score(histories)[:, :n_items]
    return models
