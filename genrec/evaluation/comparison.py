"""The table of a comparison: what each line reaches on each slice, over seeds, and against the plain model.

Slices are those of `evaluation.tables` and the groups of targets by their training events. `tail` has cold targets in
it, which a plain model cannot name at all; `warm_tail` has not. A figure is the mean over seeds of the mean over cases,
its spread the standard deviation over seeds. A difference to the reference (the plain model, unless another line is
chosen) of the same backbone is paired: each case's mean over the seeds that both have, minus the reference's, resampled
over cases.

Shapes: B cases, K ranks, N items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.evaluation.baselines import ContentKnn, ItemKnn, Markov
from genrec.evaluation.comparison_plots import plot_comparison
from genrec.evaluation.metrics import paired_interval, rank_of_target
from genrec.evaluation.tables import HISTORY_GROUPS, METRICS, rank, slices, tested_cases
from genrec.run import Run
from genrec.semtok.aligners import PLAIN
from genrec.semtok.arrays import read_arrays
from genrec.semtok.catalog import Catalog
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.stages import Stage

KS = (5, 10, 20)
RANKS = max(KS)  # items of a cell's list for a case
FREQUENCY_GROUPS = {"1-4": (1, 4), "5-9": (5, 9), "10-19": (10, 19), "20-49": (20, 49), "50+": (50, None)}
MINUS = "recall_minus_"  # before the reference's name in the rows of differences


@dataclass(frozen=True)
class CellName:
    """One training of a comparison."""

    name: str  # of the table's line
    backbone: str  # its name
    seed: int  # of the training

    @property
    def folder(self) -> str:
        """Its place in the run."""
        return f"cells/{self.name}-{self.backbone}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a cell left."""

    cell: CellName  # which it was
    lists: NDArray[np.int32]  # [B, 20], catalogue rows for the tested cases, -1 pads
    vectors: ItemVectors  # that items were ranked with, [N, D]


def comparison_stage(cells: Sequence[CellName], reference: str, texts: Sequence[str]) -> Stage:
    """The report of a comparison as far as these cells.

    Args:
        reference: the line that others are measured against.
        texts: folders of the run with text vectors, the main ones first.
    """
    needs = ("catalog", "split", *texts, *(cell.folder for cell in cells))
    config = {"cells": [cell.folder for cell in cells], "reference": reference}
    return Stage("report", config, needs, partial(_report, cells, reference, texts))


def _report(cells: Sequence[CellName], reference: str, texts: Sequence[str], run: Run, folder: Path) -> None:
    split, catalog = run.split(), run.catalog()
    tested, results = tested_cases(split.test, len(catalog)), []
    for cell in cells:
        files = run.verified(cell.folder)
        shape = {"rows": ("int32", (len(tested), RANKS))}
        lists = read_arrays(files / "lists.safetensors", shape, "lists of a cell")["rows"]
        vectors = ItemVectors.load(files / "item.safetensors")
        results.append(Result(cell, lists, vectors))
    vectors_of = [ItemVectors.load(run.verified(name) / "text.safetensors") for name in texts]
    write_comparison(
        folder, results, tested, split.train, catalog, vectors_of, exclude_seen=run.exclude_seen, reference=reference
    )


def costs(run: Run, cells: Sequence[CellName]) -> dict[str, float]:
    """Seconds of training and validation of each line, mean over its seeds, by the log; 0 for what it has lost."""
    seconds = run.epoch_seconds()
    of_line: dict[str, list[float]] = {}
    for cell in cells:
        of_line.setdefault(f"{cell.name} {cell.backbone}", []).append(seconds.get(cell.folder, 0.0))
    return {name: sum(values) / len(values) for name, values in of_line.items()}


def write_comparison(
    folder: Path,
    results: Sequence[Result],
    tested: Cases,
    train: Sequences,
    catalog: Catalog,
    texts: Sequence[ItemVectors],
    *,
    exclude_seen: bool,
    reference: str = PLAIN,
) -> None:
    """Write `metrics.json` and the pictures, of vectors for the backbone with most lines, into an existing folder.

    Args:
        texts: vectors [N, D_t] of each encoder, for a row `ContentKnn` each; those of the first are in the pictures,
            and its row has no encoder in its name.
    """
    groups = case_groups(tested, train, len(catalog))
    rows = [row for line in _lines(results) for row in _figures(line, tested, groups)]
    rows += _differences(results, tested, groups, reference)
    baselines = {kind.__name__: kind.fit(train, len(catalog)).score for kind in (Markov, ItemKnn)}
    main = texts[0]
    for text in texts:
        name = "ContentKnn" if text is main else f"ContentKnn {text.source}"
        baselines[name] = ContentKnn(unit_rows(text.values)).score
    for name, score in baselines.items():
        lists = rank(score, tested.histories, exclude_seen=exclude_seen, k=RANKS)
        rows += _figures([Result(CellName(name, "", 0), lists, main)], tested, groups)
    write_atomic(folder / "metrics.json", to_json(rows))
    firsts = [line[0] for line in _lines(results)]
    shown, _ = Counter(first.cell.backbone for first in firsts).most_common(1)[0]
    vectors = {f"{first.cell.name} {shown}": first.vectors.values for first in firsts if first.cell.backbone == shown}
    plot_comparison(folder, rows, tuple(FREQUENCY_GROUPS), vectors, train, catalog, main.values)


def case_groups(cases: Cases, train: Sequences, n_items: int) -> dict[str, NDArray[np.bool_]]:
    """Which cases belong to a slice, bool [B]; slices without a case are left out."""
    every = {name: members for name, members in slices(cases, train, n_items).items() if name not in HISTORY_GROUPS}
    if "tail" in every:
        every["warm_tail"] = every["tail"] & ~cases.cold
    counts = np.bincount(train.values, minlength=n_items)[cases.targets]
    for name, (least, most) in FREQUENCY_GROUPS.items():
        every[name] = (counts >= least) & (counts <= (most or np.inf))
    return {name: members for name, members in every.items() if members.any()}


def _lines(results: Sequence[Result]) -> list[list[Result]]:
    """The results of each name and backbone, over seeds."""
    lines: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        lines.setdefault((result.cell.backbone, result.cell.name), []).append(result)
    return list(lines.values())


def _figures(line: Sequence[Result], cases: Cases, groups: Mapping[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Recall and NDCG on every slice, mean and spread over seeds."""
    ranks = [rank_of_target(result.lists, cases.targets) for result in line]
    rows = []
    for name, members in groups.items():
        for metric in ("recall", "ndcg"):
            for k in KS:
                values = [float(METRICS[metric](of_seed[members], k).mean()) for of_seed in ranks]
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                figure = {"value": float(np.mean(values)), "spread": spread, "seeds": len(values)}
                rows.append(_row(line[0], name, metric, k, int(members.sum()), **figure))
    return rows


def _differences(
    results: Sequence[Result], cases: Cases, groups: Mapping[str, NDArray[np.bool_]], reference: str
) -> list[dict[str, Any]]:
    """Recall@10 minus the reference's, on every slice, with a paired interval."""
    recall = METRICS["recall"]
    by_cell = {result.cell: recall(rank_of_target(result.lists, cases.targets), 10) for result in results}
    rows = []
    for line in _lines(results):
        name, backbone = line[0].cell.name, line[0].cell.backbone
        seeds = [result.cell.seed for result in line if CellName(reference, backbone, result.cell.seed) in by_cell]
        if name == reference or not seeds:
            continue
        ours, theirs = (
            np.mean([by_cell[CellName(one, backbone, seed)] for seed in seeds], axis=0) for one in (name, reference)
        )
        for group, members in groups.items():
            value, low, high, n = paired_interval(ours[members], theirs[members])
            figure = {"value": value, "low": low, "high": high, "seeds": len(seeds)}
            rows.append(_row(line[0], group, f"{MINUS}{reference}", 10, n, **figure))
    return rows


def _row(result: Result, slice_: str, metric: str, k: int, n: int, **figure: Any) -> dict[str, Any]:
    model = f"{result.cell.name} {result.cell.backbone}".strip()
    row = {"model": model, "split": "test", "slice": slice_, "metric": metric, "k": k, "n": n}
    return row | {"low": None, "high": None, "spread": None} | figure


_COLUMNS = {
    "Recall@10": ("all", "recall"),
    "NDCG@10": ("all", "ndcg"),
    "head": ("head", "recall"),
    "tail": ("tail", "recall"),
    "warm tail": ("warm_tail", "recall"),
    "tail users": ("tail_users", "recall"),
    **{name: (name, "recall") for name in FREQUENCY_GROUPS},
    "cold": ("cold", "recall"),
}
_DIFFERENCES = {"": "all", ", tail": "tail", ", warm tail": "warm_tail", ", tail users": "tail_users"}


def table(rows: Iterable[Mapping[str, Any]], seconds: Mapping[str, float]) -> str:
    """The comparison as a Markdown table: mean ± spread over seeds, differences with intervals, seconds of a seed.

    Args:
        rows: of `metrics.json`.
        seconds: of training and validation, mean over seeds, by model.
    """
    found = {(row["model"], row["slice"], row["metric"]): row for row in rows if row["k"] == 10}
    models = list(dict.fromkeys(model for model, _, _ in found))
    every = dict(_COLUMNS)
    for metric in dict.fromkeys(metric for _, _, metric in found if metric.startswith(MINUS)):
        title = f"minus {metric.removeprefix(MINUS)}"
        every |= {f"{title}{where}": (slice_, metric) for where, slice_ in _DIFFERENCES.items()}
    columns = {title: key for title, key in every.items() if any((model, *key) in found for model in models)}
    cases = {title: max(found[m, *key]["n"] for m in models if (m, *key) in found) for title, key in columns.items()}
    heads = [f"{title} ({cases[title]:,})" if key[1] == "recall" else title for title, key in columns.items()]
    lines = ["| model | seeds | " + " | ".join(heads) + " | seconds |", "|---" * (len(columns) + 3) + "|"]
    for model in models:
        cells = [_text(found.get((model, *key))) for key in columns.values()]
        seeds = found[model, "all", "recall"]["seeds"] if model in seconds else ""
        cost = f"{seconds[model]:,.0f}" if seconds.get(model) else ""
        lines.append(f"| {model} | {seeds} | " + " | ".join(cells) + f" | {cost} |")
    return "\n".join(lines) + "\n"


def _text(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["low"] is not None:
        return f"{row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
    return f"{row['value']:.4f}" + ("" if row["spread"] is None else f" ±{row['spread']:.4f}")
