"""`genrec fit --help`: the settings that people change, in groups, on two screens; `--help all` prints every option."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser

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
