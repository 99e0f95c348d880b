"""`verdict`: what a run's figures say, in one sentence: who wins by how much, where it loses, what to try next.

    genrec fused beats SASRec + co-occurrence, the best baseline, by 0.0350 in Recall@10 (0.4030 against 0.3680, 95%
    interval +0.0150 to +0.0560); on head targets ItemKnn is better (0.6291 against 0.5610). Next: longer training …

The advice is a rule of thumb by what wins: counts, text or a sequence model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from genrec.evaluation.tables import DEFAULT, MINUS, ORACLE, Row

_SLICES = ("head", "tail", "cold", "same_day", "later_day")
_FEW = 20  # cases below which a slice says nothing
_COUNTED = ("Markov", "ItemKnn", "Popularity")
_TRY = {
    "ContentKnn": "a better text encoder (--text.encoder hf:MODEL or st:MODEL; genrec[minilm] where it is tfidf)",
    "counts": "longer training (--lm.epochs, --aligner.training.epochs) or more data: counts alone do better",
    "SASRec": "longer training (--lm.epochs, --aligner.training.epochs), or --lm.max_items if histories are long",
    "": "several seeds (genrec evaluate RUN RUN RUN), then a refit for production (--refit)",
}


class Verdict(NamedTuple):
    """What the figures say."""

    sentence: str  # for people
    loses: bool  # a baseline has the higher Recall@10


def verdict(rows: Iterable[Row]) -> Verdict:
    """The verdict on the ranking that a run's lists are made by, by Recall@10 on the test split.

    Baselines are all that need no language model, but for the recommender that the run's aligner was trained with.
    """
    found = list(rows)
    recall = {
        (row["model"], row["slice"]): row
        for row in found
        if row["split"] == "test" and row["metric"] == "recall" and row["k"] == 10
    }
    ours = next((model for model, _ in recall if model.endswith(DEFAULT)), None)
    baselines = [model for model, name in recall if name == "all" and _is_baseline(model)]
    if ours is None or not baselines:
        return Verdict("No ranking of the run stands beside baselines.", False)
    name, best = ours.removesuffix(DEFAULT), max(baselines, key=lambda model: recall[model, "all"]["value"])
    mine, theirs = recall[ours, "all"]["value"], recall[best, "all"]["value"]
    paired = next((row for row in found if row["model"] == ours and row["metric"] == f"recall{MINUS}{best}"), None)
    interval, sure = "", True
    if paired is not None and paired["low"] is not None and paired["high"] is not None:
        interval = f", 95% interval {paired['low']:+.4f} to {paired['high']:+.4f}"
        sure = paired["low"] > 0 or paired["high"] < 0
    verb = "beats" if mine > theirs else "loses to" if mine < theirs else "is level with"
    by = f"by {abs(mine - theirs):.4f} " if mine != theirs else ""
    sentence = (
        f"{name} {verb} {best}, the best baseline, {by}in Recall@10 ({mine:.4f} against {theirs:.4f}"
        f"{interval}{'' if sure else ', within chance'})"
    )
    lost = _worst_slice(recall, ours, baselines)
    culprit = best if mine < theirs else "" if lost is None else lost[1]
    if lost is not None:
        slice_name, other, value, better = lost
        sentence += f"; on {slice_name.replace('_', '-')} targets {other} is better ({better:.4f} against {value:.4f})"
    return Verdict(f"{sentence}. Next: {_advice(culprit)}.", mine < theirs)


def _is_baseline(model: str) -> bool:
    return not model.startswith("genrec ") and ", aligned" not in model and model != ORACLE


def _worst_slice(
    recall: dict[tuple[str, str], Row], ours: str, baselines: list[str]
) -> tuple[str, str, float, float] | None:
    """The slice of the greatest loss: its name, the baseline that wins it, our figure and the baseline's."""
    losses = []
    for name in _SLICES:
        row = recall.get((ours, name))
        measured = [model for model in baselines if (model, name) in recall]
        if row is not None and row["n"] >= _FEW and measured:
            other = max(measured, key=lambda model: recall[model, name]["value"])
            losses.append((name, other, row["value"], recall[other, name]["value"]))
    worst = max(losses, key=lambda loss: loss[3] - loss[2], default=None)
    return worst if worst is not None and worst[3] > worst[2] else None


def _advice(culprit: str) -> str:
    if culprit in _COUNTED or culprit.endswith("co-occurrence"):
        return _TRY["counts"]
    return _TRY.get(culprit, _TRY[""])
