"""`model_card`: the README of a run that is given to others: data, figures, intended use, limits, licence.

Written from the run alone. It counts people and says nothing of any; who publishes it says the licence, and edits the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from genrec.evaluation.seeds import markdown
from genrec.evaluation.tables import DEFAULT, summary, tested_cases
from genrec.evaluation.verdict import verdict
from genrec.run import Run
from genrec.semtok.errors import InputError

_METRICS = (("recall", 10), ("ndcg", 10))
_HELD_BACK = {
    "leave_last_out": "the last item of every user",
    "by_time": "the last events of the log by time",
    "given": "the cases of a split that was given",
}


@dataclass(frozen=True)
class CardFacts:
    """What a run does not know of itself."""

    name: str  # of the model; on a hub USER/NAME
    with_log: bool = False  # the log's users and their histories are published too
    license: str | None = None  # as a hub calls it (`apache-2.0`); None: to be said by a person


def model_card(run: Run, facts: CardFacts) -> str:
    """The card as Markdown, with the metadata that a hub reads; raises InputError where the run has no report."""
    if not run.report.is_dir():
        raise InputError(f"{run}: has no report to write the model card from; genrec evaluate {run} makes it")
    parts = {
        "Use": _use(run, facts),
        "Data": _data(run, facts),
        "Figures": _figures(run),
        "Intended use": _INTENDED,
        "Limits": _limits(facts),
        "What it is made of": _made_of(run),
        "Licence": _licence(run, facts),
    }
    head = f"---\n{_metadata(run, facts)}\n---\n\n# {facts.name}\n\n{_about(run)}\n"
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in parts.items())


def _metadata(run: Run, facts: CardFacts) -> str:
    rows = [row for row in run.metrics() if row["split"] == "test" and row["slice"] == "all"]
    results = [
        EvalResult(
            task_type="sequential-recommendation", dataset_type="own", dataset_name="held-back interactions",
            metric_type=f"{metric}@{k}", metric_value=round(float(row["value"]), 4),
        )
        for metric, k in _METRICS
        for row in rows
        if row["model"].endswith(DEFAULT) and (row["metric"], row["k"]) == (metric, k)
    ]  # fmt: skip
    named: dict[str, Any] = {"eval_results": results, "model_name": facts.name.rpartition("/")[2]} if results else {}
    tags = ["recommendation", "sequential-recommendation", "semantic-ids", "generative-recommendation"]
    return ModelCardData(license=facts.license, library_name="genrec", tags=tags, **named).to_yaml()


def _about(run: Run) -> str:
    ids = run.semantic_ids()
    return (
        f"A recommender of {len(run.catalog()):,} items, fitted by genrec {version('genrec')}: a language model that "
        f"continues histories in semantic IDs of {len(ids.sizes)} codes under constrained decoding, fused with the "
        "other scorers of the run. It takes the item ids of a history and gives a ranked list of items."
    )


def _use(run: Run, facts: CardFacts) -> str:
    first = run.catalog().public_ids(np.arange(min(2, len(run.catalog())))).to_list()
    return (
        "```python\nimport genrec\n\n"
        f'recommender = genrec.Recommender.from_pretrained("{facts.name}")\n'
        f"recommender.recommend(histories=[{first!r}], k=10).to_polars()\n"
        f"recommender.similar({first[0]!r})\n```"
    )


def _data(run: Run, facts: CardFacts) -> str:
    split, catalog = run.split(), run.catalog()
    words, tested = ", ".join(catalog.text_columns) or "none", len(tested_cases(split.test, run.fitted_items))
    drawn = "" if tested == len(split.test) else f", of which {tested:,}, drawn by seed, were ranked"
    tables = (
        "The users of the log and their histories are in this repository."
        if facts.with_log
        else "Neither the log nor any user's history is in this repository."
    )
    return (
        f"- {len(catalog):,} items with titles; other columns that are read as words: {words}.\n"
        f"- {len(split.train):,} training histories with {len(split.train.values):,} interactions; "
        f"{len(split.valid):,} validation cases and {len(split.test):,} test cases{drawn}.\n"
        f"- Held back for the test: {_HELD_BACK[split.name]}.\n"
        f"- {tables}\n"
        "- Where the data are from, and whether they may be passed on: to be said by whoever publishes this."
    )


def _figures(run: Run) -> str:
    rows = run.metrics()
    headings, lines = summary(rows)
    said, _, _ = verdict(rows).sentence.partition(" Next: ")
    return (
        f"{said}\n\n{markdown(headings, lines)}\nOn the test cases, over the whole catalogue; ± is half of a 95% "
        "interval. head are the most popular fifth of the items, tail the others, cold those without a training "
        "interaction, tail users the shortest 80% of the histories: Recall@10."
    )


_INTENDED = (
    "Ranking the items of this catalogue for a history of its items, under conditions on their attributes; similar "
    "items; search by a text. Not for other catalogues: item ids, codes and weights belong together. Not for decisions "
    "about people."
)


def _limits(facts: CardFacts) -> str:
    lines = [
        "It repeats what the people of its log did, popularity included; see head and tail above.",
        "Items that came later are unknown to it.",
        "Figures are of one split and one seed, and say nothing of what lists do to people who see them.",
    ]
    if not facts.with_log:
        lines.append(
            "Weights and counts of items that follow each other are learned from the log. The count of a rare pair can "
            "be of one person: where an item alone tells of somebody, such a model is not to be passed on."
        )
    return "\n".join(f"- {line}" for line in lines)


def _made_of(run: Run) -> str:
    settings = run.settings()
    named = {"text encoder": ("text", "encoder"), "aligner": ("aligner", "name"), "backbone": ("aligner", "backbone")}
    named |= {"language model": ("lm", "base"), "ranking": ("ranking", "ranking")}
    lines = [f"- {label}: {_setting(settings, *path)}" for label, path in named.items()]
    versions = run.made_with("lm")
    lines.append(f"- fitted with {', '.join(f'{name} {version}' for name, version in versions.items())}")
    lines.append("- all settings: `config.yaml`; every folder's `manifest.json` has the sizes and hashes of its files")
    return "\n".join(lines)


def _licence(run: Run, facts: CardFacts) -> str:
    settings = run.settings()
    base = _setting(settings, "lm", "base")
    from_others = "" if base == "scratch" else f" The language model began as {base}, whose licence goes on applying."
    if facts.license is not None:
        return f"{facts.license}.{from_others}"
    return f"Not said yet: whoever publishes this says it here and as `license` in the metadata.{from_others}"


def _setting(settings: dict[str, Any], section: str, name: str) -> str:
    """A value of the resolved configuration; of a path its last part, as machines are nobody's business."""
    found = settings.get(section)
    value = str(found.get(name, "unknown")) if isinstance(found, dict) else "unknown"
    return value.rstrip("/").rpartition("/")[2] if value.startswith(("/", "~", ".")) else value
