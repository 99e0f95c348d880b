"""What `--help` says of the commands that take no options, and of `genrec fit`.

`genrec fit --help` prints the settings that people change, in groups, on two screens; `--help all` every option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

HELPS = {
    "evaluate": """usage: genrec evaluate RUN [RUN ...]

Of one run: the table of its report, made again where it is out of date (nothing is trained), a sentence on who wins,
where and by how much, and differences to every other model over the same test cases with 95% intervals. Of several
runs of one configuration by other seeds: mean and spread of every figure, and the differences over all seeds.

  Recall@K  share of test cases whose held-back item is among the first K; 1 is best
  NDCG@K    the same, worth more at the top; MRR@K: one over its place
  head, tail, cold   Recall@10 where that item is among the most popular fifth, is not, was never seen in training
  tail users         Recall@10 of the shortest 80% of the histories
  coverage@10        share of the catalogue that is in some list

An interval of a difference that holds 0 is within chance.

  genrec evaluate runs/shop
  genrec evaluate runs/seed-0 runs/seed-1 runs/seed-2
""",
    "inspect": """usage: genrec inspect RUN [ITEM ...]

With items: each one's semantic ID, and the items that share its codes from the longest prefix to the first code. They
should be alike; where they are not, the codes say little.

Without: how good the IDs of the run are, with what is good and what is bad of each figure. They show collapse and
collisions; of two healthy runs the better is known by `genrec evaluate`.

  genrec inspect runs/shop
  genrec inspect runs/shop 10001 10037
""",
    "add-items": """usage: genrec add-items RUN FILE

New items get text vectors, item vectors and semantic IDs with what the run has learned, and can be recommended at once;
nothing is trained, and no ID that was given before moves. FILE is an item table (CSV, JSONL or Parquet) of new items
alone, with the columns of the one that the run was fitted on. Servers take the items in when they are started again,
stored lists with the next `genrec recommend`. Killed, the same command goes on.

A run with added items is not trained again in place: fit another one from time to time.

  genrec add-items runs/shop new_items.csv
""",
}

SETTINGS: dict[str, dict[str, str]] = {
    "What is read": {
        "data.items": "item table: JSONL, CSV or Parquet with item_id and title",
        "data.interactions": "log with user_id, item_id, timestamp",
        "data.split": "leave_last_out, by_time, or given with --data.splits FOLDER",
    },
    "How good, how long": {
        "text.encoder": "tfidf, minilm, hf:MODEL or st:MODEL; the best that is installed",
        "aligner.name": "faerec, text, concatenation, llmemb, llm_esr, recgoat, or fusion (nothing is trained)",
        "lm.base": "scratch, or a Hugging Face causal LM by folder or id",
        "effort": "quick, standard or thorough: so many passes over the data",
        "baseline": "sasrec: trained to be compared with, which may double the time",
        "lm.max_items": "the last items of a history that are read; 0: 20 or 50, by their mean length",
        "topk.k": "items in each user's list; 0 writes no lists",
    },
    "Which run": {
        "run": "the folder that everything is written to",
        "seed": "of everything random",
        "reuse": "another run, whose stages are linked where they read the same",
        "refit": "a finished run of the same settings: learn from the validation items too",
    },
}
_BEGINNING = """usage: genrec fit CONFIG [--SECTION.OPTION VALUE ...] [--before_lm]

Runs every stage that is out of date; interrupted, the same command goes on. CONFIG is a YAML file:

    data: {items: items.csv, interactions: log.csv}
    run: runs/mine

Each option is a place in that file or a flag, which goes before it:

    genrec fit my.yaml --lm.epochs 10 --text.encoder minilm
"""
_END = """  --before_lm ends before the language model, for accelerate launch (docs/how-to/gpu.md).

genrec fit --help all prints every option.
"""


def fit_help(parser: ArgumentParser) -> str:
    """The short help, with the defaults of the parser."""
    defaults = parser.get_defaults()
    lines = [_BEGINNING]
    width = max(len(flag) for settings in SETTINGS.values() for flag in settings)
    for group, settings in SETTINGS.items():
        lines.append(f"{group}:")
        for flag, what in settings.items():
            lines.append(f"  --{flag:<{width}}  {what}{_default(defaults.get(flag))}")
        lines.append("")
    return "\n".join([*lines, _END])


def _default(value: Any) -> str:
    return "" if value in (None, "") else f" [{value}]"
