"""The report of a run: every ranking of it beside baselines, on the test split; for `genrec fit` and `genrec evaluate`.

It reads nothing but the run's own folder, and of that the items that the run was fitted on: items that were added since
are nobody's target, and some of the models do not know them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from genrec.cli.stages import Stage, make_stage, progress_bar
from genrec.data.cases import Cases, Split
from genrec.decoding.filters import ItemFilter
from genrec.evaluation.baselines import BASELINES, ContentKnn, Random
from genrec.evaluation.metrics import rank_of_target
from genrec.evaluation.report import write_report
from genrec.evaluation.search_diagnosis import search_diagnosis
from genrec.evaluation.tables import DEFAULT, KS, RANKS, Lists, Row, compare, evaluate, rank
from genrec.inference.recommender import Recommender
from genrec.ranking.config import FusionWeights
from genrec.ranking.cooccurrence import Cooccurrence, Score, best_weight, mixture
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_folder, read_json, write_atomic
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.sequential.frozen import load_frozen
from genrec.sequential.sasrec import SasRec
from genrec.training.run_folder import check_stage_folder, files_hash, is_current, locked, read_settings

_NEEDS = ("catalog", "split", "vectors/text", "vectors/collaborative", "vectors/item", "semtok", "lm")


def report_stage(run: Path, chooser: Path | None) -> Stage:
    """The stage of a run.

    Args:
        chooser: of a refit, the run that chose its epochs and weights.
    """
    config = {"title": run.name, "ranks": True}
    return Stage("report", config, _NEEDS, lambda folder: _report(run, chooser, folder))


def update_report(run: Path) -> None:
    """Make the report of a finished run again where it is out of date; nothing is trained, and only the run is read.

    Raises:
        InputError: a stage of the run is unfinished or was made of another one than stands there, or another process
            works on the run.
    """
    chooser = read_settings(run / "config.yaml")["refit"]
    with locked(run):
        stage = report_stage(run, None if chooser is None else Path(chooser))
        try:
            _check_finished(run)
            inputs = stage.inputs(run)
        except InputError as error:
            raise InputError(f"{error}; genrec fit finishes the run") from None
        if not is_current(run / stage.folder, inputs):
            check_stage_folder(run, stage.folder)
            make_stage(run, stage, inputs)


def _check_finished(run: Path) -> None:
    """Raise InputError where a stage has not been made yet from what the stages before it hold now."""
    for folder in _NEEDS:
        for read, made in check_folder(run / folder)["inputs"].get("needs", {}).items():
            if files_hash(run / read) != made:
                raise InputError(f"{run}: {folder} was made of another {read}")


def fitted_items(run: Path) -> int:
    """N, the items that a run was fitted on: the first rows of its catalogue."""
    return len(ItemVectors.load(run / "vectors/collaborative/collaborative.safetensors"))


def _report(run: Path, chooser: Path | None, folder: Path) -> None:
    rows, notes, lists = _evaluated(run, chooser)
    logs = [run / part / "training.json" for part in ("vectors/collaborative", "vectors/item", "lm")]
    training = [row for log in logs if log.is_file() for row in read_json(log)]
    quality = read_json(run / "semtok/quality.json")
    write_report(folder, rows, training_log=training, quality=quality, title=f"Report of {run.name}", notes=notes)
    targets = Split.load(run / "split").test.targets
    ranks = {name: rank_of_target(ranked, targets).astype(np.uint8) for name, ranked in lists.items()}
    write_atomic(folder / RANKS, save({name.removesuffix(DEFAULT): one for name, one in ranks.items()}))


def _evaluated(run: Path, chooser: Path | None) -> tuple[list[Row], list[str], Lists]:
    """Metrics of the test split for baselines and every ranking of the run; notes on the protocol; the lists."""
    split, recommender = Split.load(run / "split"), Recommender.from_pretrained(run)
    exclude_seen = read_json(run / "split/data.json")["exclude_seen"]
    n_items, cases = fitted_items(run), split.test
    lists: dict[str, Any] = {}
    for name, baseline in BASELINES.items():
        lists[name] = rank(baseline.fit(split.train, n_items).score, cases.histories, exclude_seen=exclude_seen)
    text = ItemVectors.load(run / "vectors/text/text.safetensors")
    content = ContentKnn(unit_rows(text.values[:n_items]))
    lists["ContentKnn"] = rank(content.score, cases.histories, exclude_seen=exclude_seen)
    lists["Random"] = rank(Random(n_items).score, cases.histories, exclude_seen=exclude_seen)
    cooccurrence = Cooccurrence.fit(split.train, n_items)
    weights_beside = _cooccurrence_weights(run, chooser, n_items)
    others: dict[str, Score] = {}
    for name, score in _sequential_models(run, n_items).items():
        others[name] = score
        others[f"{name} + co-occurrence"] = mixture(score, cooccurrence, weights_beside[name])
    for name, score in others.items():
        lists[name] = rank(score, cases.histories, exclude_seen=exclude_seen)
    settings = recommender.ranker.config
    best = settings.fusion_weights
    rankings = {
        "beam": FusionWeights(0.0),
        "dense": FusionWeights(1.0),
        "beam and dense": FusionWeights(best.dense),
        "fused": best,
    }
    fitted = np.arange(len(recommender.catalog)) < n_items
    shared = recommender.filters() & ItemFilter.from_mask(recommender.trie, fitted)
    filters = [shared.deny(history) if exclude_seen else shared for history in cases.histories]
    with progress_bar("ranking the test cases", "case") as progress:
        fused = recommender.ranker.fused_lists(
            cases.histories,
            weights=list(dict.fromkeys(rankings.values())),
            k=max(KS),
            filters=filters,
            progress=_counted(progress, cases),
        )
    for name, weights in rankings.items():
        lists[f"genrec {name}" + (DEFAULT if name == settings.ranking else "")] = fused[weights]
    rows = evaluate(lists, cases, split.train, n_items)
    rows += search_diagnosis(recommender.ranker, cases, filters)
    for reference in ("Markov", "ItemKnn", *others):
        rows += compare(lists, cases, reference=reference)
    notes = [
        f"Split {split.name}: {len(cases):,} test cases over {n_items:,} items; the whole catalogue is ranked.",
        f"Fitted on training items {'only' if chooser is None else 'and validation items'}; epochs and the "
        f"fusion weights ({best}) were chosen on validation"
        f"{'' if chooser is None else ' by the run before'}; the test split was read once.",
        "Items of the history are left out of every list." if exclude_seen else "Items of the history may be listed.",
    ]
    return rows, notes, lists


def _cooccurrence_weights(run: Path, chooser: Path | None, n_items: int) -> dict[str, float]:
    """The weight of co-occurrence that wins on validation beside each sequential model, of a refit: that won before."""
    run = chooser or run
    split = Split.load(run / "split")
    cooccurrence = Cooccurrence.fit(split.train, n_items)
    exclude_seen = read_json(run / "split/data.json")["exclude_seen"]
    return {
        name: best_weight(score, cooccurrence, split.valid, exclude_seen)
        for name, score in _sequential_models(run, n_items).items()
    }


def _sequential_models(run: Path, n_items: int) -> dict[str, Score]:
    """SASRec of ID vectors, and the one that the run's aligner was trained with, where there is one: float32 [B, N]."""
    models: dict[str, Score] = {"SASRec": SasRec.load(run / "vectors/collaborative").score}
    aligned = load_frozen(run / "vectors/item")
    if aligned is not None:
        models[f"{aligned.backbone.name}, aligned"] = lambda histories: aligned.score(histories)[:, :n_items]
    return models


def _counted(progress: Callable[[int, int], None], cases: Cases) -> Callable[[int], None]:
    """From "so many more are done" to "so many of all are done"."""
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        progress(done, len(cases))

    return told
