"""Evaluation: ranked lists of several models for the same cases in, rows of figures out.

    lists = {"Markov": rank(markov.score, cases.histories, exclude_seen=True), "genrec": padded(recommendations.rows)}
    rows = evaluate(lists, cases, split.train, len(catalog)) + compare(lists, cases, reference="Markov")
    print(format_table(rows))

Every list ranks the whole catalogue. A row is one figure over the `n` cases of a slice, with its 95% bootstrap interval
where it is a mean over cases.

Legend: B cases, K ranks, N items of the catalogue.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.evaluation.metrics import (
    coverage,
    gini,
    interval,
    mrr,
    ndcg,
    paired_interval,
    rank_of_target,
    recall,
    top_k,
)

KS = (1, 5, 10, 20, 50)
METRICS = {"recall": recall, "ndcg": ndcg, "mrr": mrr}
HEAD_SHARE = 0.2
TAIL_USERS = 0.8
HISTORY_GROUPS = {"history_1-4": (1, 4), "history_5-9": (5, 9), "history_10-19": (10, 19), "history_20+": (20, None)}
ORACLE = "Oracle"  # the name of the best possible recommender, where a data set has one
DEFAULT = " (default)"  # behind the name of the ranking that a run's lists are made by
RANKS = "ranks.safetensors"  # in a report: where each model has each case's target
MINUS = "_minus_"  # between the metric and the reference in the rows of `compare`
SEARCH = "search"  # the split of what `genrec.evaluation.search_diagnosis` finds
_CHUNK_CELLS = 1 << 24  # scores held at once: 64 MiB
_TESTED_CELLS = 1 << 31  # scores of a model that a report makes; more would take it days on a large catalogue

Lists = Mapping[str, NDArray[np.int32]]


class Row(TypedDict):
    """One figure; `low` and `high` are None where there is no interval."""

    model: str
    split: str
    slice: str
    metric: str
    k: int
    value: float
    low: float | None
    high: float | None
    n: int


def rank(
    score: Callable[[Sequences], NDArray[np.float32]],
    histories: Sequences,
    *,
    exclude_seen: bool,
    k: int = max(KS),
) -> NDArray[np.int32]:
    """Best k items for each history by a scorer of the whole catalogue, asked in chunks.

    Args:
        score: histories to float32 [B, N].
        exclude_seen: leave out the items of the history.

    Returns:
        int32 [B, k], best first, -1 where there are no more.
    """
    rows = np.full((len(histories), k), -1, dtype=np.int32)
    start, size = 0, 64
    while start < len(histories):
        part = histories.take(np.arange(start, min(start + size, len(histories))))
        scores = score(part)
        rows[start : start + len(part)] = top_k(scores, k, part if exclude_seen else None)[0]
        start += len(part)
        size = max(1, _CHUNK_CELLS // scores.shape[1])
    return rows


def tested_cases(cases: Cases, n_items: int) -> Cases:
    """The test cases that a report ranks: all, or of a large catalogue what 2^31 scores a model allow, by seed."""
    return cases.sample(max(1, _TESTED_CELLS // n_items), 0)


def padded(lists: Sequences, k: int = max(KS)) -> NDArray[np.int32]:
    """The first k items of ragged lists, int32 [B, k] with -1 after the end of a shorter one."""
    rows = np.full((len(lists), k), -1, dtype=np.int32)
    for row, items in zip(rows, lists, strict=True):
        row[: len(items)] = items[:k]
    return rows


def slices(cases: Cases, train: Sequences, n_items: int) -> dict[str, NDArray[np.bool_]]:
    """Which cases belong to a slice, bool [B]; slices without a case are left out.

    `head` targets are among the 20% of the catalogue with most training events (of equally many, the lower row first),
    `tail` are all others, also `cold` ones, which have no training event. `tail_users` are the 80% of the cases with
    the shortest histories (LLM-ESR, arXiv 2405.20646), and all others with as many items as the longest of these.
    Targets of `seen_pair` followed the last item of the history in some training sequence too, so that remembering the
    pair is enough; those of `new_pair`, all others, take generalisation. `same_day` and `later_day` exist where days
    are known and some target shares its day with the last history item.
    """
    counts = np.bincount(train.values, minlength=n_items)
    most = np.argsort(-counts, kind="stable")[: round(HEAD_SHARE * n_items)]
    head = np.isin(cases.targets, most[counts[most] > 0])
    lengths = cases.histories.lengths
    every = {"all": np.ones(len(cases), dtype=bool), "head": head, "tail": ~head, "cold": cases.cold}
    if len(cases):
        every["tail_users"] = lengths <= np.quantile(lengths, TAIL_USERS, method="inverted_cdf")
        seen = _seen_pairs(cases, train, n_items)
        every |= {"seen_pair": seen, "new_pair": ~seen}
    if cases.same_day is not None and cases.same_day.any():
        every |= {"same_day": cases.same_day, "later_day": ~cases.same_day}
    for name, (least, most_items) in HISTORY_GROUPS.items():
        every[name] = (lengths >= least) & (lengths <= (most_items or np.inf))
    return {name: members for name, members in every.items() if members.any()}


def _seen_pairs(cases: Cases, train: Sequences, n_items: int) -> NDArray[np.bool_]:
    """Whether the target followed the history's last item in some training sequence, bool [B]."""
    followed = train.pairs() @ np.array([n_items, 1])
    histories, seen = cases.histories, np.zeros(len(cases), dtype=bool)
    some = histories.lengths > 0
    last = histories.values[histories.offsets[1:][some] - 1].astype(np.int64)
    seen[some] = np.isin(last * n_items + cases.targets[some], followed)
    return seen


def evaluate(lists: Lists, cases: Cases, train: Sequences, n_items: int) -> list[Row]:
    """Recall, NDCG and MRR at every one of `KS` by slice; coverage and Gini of what is recommended, over all cases.

    Args:
        lists: ranked catalogue rows [B, at least 50] by model's name, -1 pads.
        cases: what the lists answer.
        train: the training sequences, by which items are head, tail or cold.
    """
    groups = slices(cases, train, n_items)
    rows: list[Row] = []
    for model, ranked in _checked(lists, cases).items():
        ranks = rank_of_target(ranked, cases.targets)
        for name, members in groups.items():
            for metric, per_case in METRICS.items():
                for k in KS:
                    rows.append(row_of(model, name, metric, k, interval(per_case(ranks[members], k))))
        for metric, whole in {"coverage": coverage, "gini": gini}.items():
            for k in KS:
                rows.append(row_of(model, "all", metric, k, (whole(ranked, n_items, k), None, None, len(cases))))
    return rows


def compare(lists: Lists, cases: Cases, *, reference: str) -> list[Row]:
    """Recall@10 and NDCG@10 of every other model minus the reference's, over all cases, with paired intervals.

    The row's metric is called `recall_minus_Markov` where Markov is the reference.
    """
    ranks = {model: rank_of_target(ranked, cases.targets) for model, ranked in _checked(lists, cases).items()}
    rows: list[Row] = []
    for model in ranks:
        for metric in ("recall", "ndcg") if model != reference else ():
            per_case = METRICS[metric]
            figure = paired_interval(per_case(ranks[model], 10), per_case(ranks[reference], 10))
            rows.append(row_of(model, "all", f"{metric}{MINUS}{reference}", 10, figure))
    return rows


def row_of(
    model: str,
    name: str,
    metric: str,
    k: int,
    figure: tuple[float, float | None, float | None, int],
    *,
    split: str = "test",
) -> Row:
    """A figure (value, low, high, n) of a model on the slice `name`."""
    value, low, high, n = figure
    return Row(model=model, split=split, slice=name, metric=metric, k=k, value=value, low=low, high=high, n=n)


def _checked(lists: Lists, cases: Cases) -> Lists:
    for model, ranked in lists.items():
        if ranked.shape[0] != len(cases) or ranked.shape[1] < max(KS):
            raise ValueError(f"{model}: lists of shape {ranked.shape} for {len(cases)} cases; {max(KS)} ranks are read")
    return lists


COLUMNS = {
    "Recall@5": ("all", "recall", 5),
    "Recall@10": ("all", "recall", 10),
    "NDCG@10": ("all", "ndcg", 10),
    "Recall@50": ("all", "recall", 50),
    "head": ("head", "recall", 10),
    "tail": ("tail", "recall", 10),
    "tail users": ("tail_users", "recall", 10),
    "cold": ("cold", "recall", 10),
    "seen pair": ("seen_pair", "recall", 10),
    "new pair": ("new_pair", "recall", 10),
    "same day": ("same_day", "recall", 10),
    "later day": ("later_day", "recall", 10),
    "coverage@10": ("all", "coverage", 10),
}
"""The summary's columns: (slice, metric, k); slices are Recall@10."""


def summary(rows: Iterable[Row], split: str = "test") -> tuple[list[str], list[list[str]]]:
    """Headings and one line of texts a model, in the order of the rows; columns that no model has are left out.

    Recall@10 has half the width of its interval behind it. Where the best possible recommender is among the models, a
    column tells the share of its Recall@10 that each reaches.
    """
    found = {(row["model"], (row["slice"], row["metric"], row["k"])): row for row in rows if row["split"] == split}
    models = list(dict.fromkeys(model for model, _ in found))
    columns = {name: key for name, key in COLUMNS.items() if any((model, key) in found for model in models)}
    best = found.get((ORACLE, COLUMNS["Recall@10"]))
    lines = []
    for model in models:
        line = [model]
        for name, key in columns.items():
            row = found.get((model, key))
            line.append("" if row is None else _text(row, with_interval=name == "Recall@10"))
        if best is not None:
            line.append(f"{found[model, COLUMNS['Recall@10']]['value'] / best['value']:.0%}" if best["value"] else "")
        lines.append(line)
    return ["model", *columns, *(["of best possible"] if best is not None else [])], lines


def _text(row: Row, *, with_interval: bool) -> str:
    if with_interval and row["low"] is not None and row["high"] is not None:
        return f"{row['value']:.4f} ±{(row['high'] - row['low']) / 2:.4f}"
    return f"{row['value']:.4f}"


def format_table(rows: Iterable[Row]) -> str:
    """The summary as plain text for a terminal, models as lines."""
    headings, lines = summary(rows)
    table = Table(box=SIMPLE, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    text = io.StringIO()
    Console(file=text, width=200, no_color=True, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip()) + "\n"
