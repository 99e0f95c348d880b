"""What each part of the language model is worth: fits that differ in one part, side by side.

    python scripts/ablate_lm.py runs/scientific                                    # every line
    python scripts/ablate_lm.py runs/scientific --lines no_teacher,no_item_input   # some of them

RUN is a finished run of `genrec fit`. Each line is a fit of its configuration with the overrides of `LINES`, in
`RUN-ablations/LINE`; stages that read the same are taken from RUN. A line that is done stays, so the command can be
stopped and called again. The table: Recall@10 of the test cases, the fused ranking's difference to that of RUN with a
paired 95% bootstrap interval, and the seconds of the language-model stage, validation included.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from genrec.cli.parsing import load_config
from genrec.cli.pipeline import fit
from genrec.evaluation.metrics import Values, paired_interval, recall
from genrec.evaluation.seeds import markdown, stage_costs
from genrec.evaluation.tables import DEFAULT
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.tasks.weights import TaskWeights

LINES: dict[str, list[str]] = {
    "no_text_tasks": ["--lm.text_share=0"],
    "all_text_tasks": [f"--lm.tasks.{task.name}=1" for task in fields(TaskWeights)],
    "aligned_start": ["--lm.sid_init=aligned"],
    "no_item_input": ["--lm.item_input=false"],
    "no_teacher": ["--lm.teacher_share=0"],
    "half_a_teacher": ["--lm.teacher_share=0.5"],
    "no_aligner": ["--aligner.name=fusion"],
    "ids_from_words": ["--aligner.name=fusion", "--fusion.method=text"],
    "no_node_vectors": ["--lm.node_vectors=false"],
    "no_dense_head": ["--lm.dense_weight=0", "--lm.node_vectors=false", "--ranking.dense_weight=0"],
    "whole_vocabulary": ["--lm.score_space=vocabulary"],
    "rqvae": ["--semtok.quantizer=rqvae"],
    "rqvae_letter": [
        "--semtok.quantizer=rqvae",
        "--semtok.rqvae.collaborative_weight=0.01",
        "--semtok.rqvae.diversity_weight=1e-4",
    ],
}
MODELS = ("genrec beam", "genrec dense", "genrec fused")


def fit_line(run: Run, name: str, folder: Path) -> Run:
    """One line; nothing is made again where it is done."""
    shared = [f"--run={folder}", f"--reuse={run}", "--topk.k=0"]
    return fit(load_config(run.config, [*shared, *LINES[name]]))


def table(run: Run, lines_of: Mapping[str, Run]) -> str:
    """Markdown: a line for the whole model and one for each of `lines_of`."""
    headings = ["line", *(f"Recall@10, {model.removeprefix('genrec ')}" for model in MODELS), "tail, fused"]
    whole, lines = hits(run), []
    for name, other in {"whole": run, **lines_of}.items():
        figures = {
            (row["model"].removesuffix(DEFAULT), row["slice"]): f"{row['value']:.4f}"
            for row in other.metrics()
            if (row["split"], row["metric"], row["k"]) == ("test", "recall", 10)
        }
        lines.append(
            [
                name,
                *(figures[model, "all"] for model in MODELS),
                figures[MODELS[-1], "tail"],
                "" if other is run else paired_interval(hits(other), whole).signed(),
                f"{seconds['lm'][0]:,.0f}" if "lm" in (seconds := stage_costs(other)) else "",
            ]
        )
    return markdown([*headings, "fused minus whole", "seconds"], lines)


def hits(run: Run) -> Values:
    """Recall@10 of the fused ranking, case by case."""
    return recall(run.ranks()[MODELS[-1]].astype(np.int64), 10)


def main() -> None:
    """Fit the lines that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    parser.add_argument("--lines", default=",".join(LINES), help="comma-separated; default: all")
    parser.add_argument("--out", type=Path, help="folder of the lines' runs; default: RUN-ablations")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run = Run(arguments.run)
    out = arguments.out or run.path.with_name(f"{run.path.name}-ablations")
    names = arguments.lines.split(",")
    try:
        unknown = [name for name in names if name not in LINES]
        if unknown:
            raise InputError(f"--lines {unknown[0]}: choose from {', '.join(LINES)}")
        if not (run.report / "metrics.json").is_file():
            raise InputError(f"{run}: not a finished run of genrec fit")
        sys.stdout.write(table(run, {name: fit_line(run, name, out / name) for name in names}))
    except InputError as error:
        sys.exit(f"ablate_lm: {error}")


if __name__ == "__main__":
    main()
