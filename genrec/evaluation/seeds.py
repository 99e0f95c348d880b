"""One table over runs that differ in their seed alone: every figure's mean and spread, paired differences, cost.

    genrec evaluate runs/mine runs/mine-1 runs/mine-2

A spread is the standard deviation over runs. A difference is paired: each case's mean over the runs of the default
ranking, minus that of another model, resampled over cases. It speaks of these test cases, the spread of the training.

Shapes: B cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec.evaluation.metrics import Values, paired_interval
from genrec.evaluation.tables import COLUMNS, DEFAULT, METRICS, slices, tested_cases
from genrec.run import Run, other_section
from genrec.semtok.errors import InputError
from genrec.semtok.folders import hash_file

_FREE = ("run", "refit", "reuse", "topk", "seed")  # what runs of one table may have set otherwise
_EPOCHS = {"vectors/collaborative": "collaborative", "vectors/item": "aligner", "lm": "lm"}  # their names in the log
_DIFFERENCES = ("Recall@10", "NDCG@10", "tail", "tail users")  # of `COLUMNS`


def check_runs(runs: Sequence[Run]) -> None:
    """Raise InputError where a run is named twice, or has other settings than the first or other test cases."""
    first = runs[0].settings()
    seeds: dict[int, Run] = {}
    for run in runs:
        config = run.settings()
        other = other_section(first, config, _FREE)
        if other is not None:
            raise InputError(f"{run}: its {other} settings are others than those of {runs[0]}")
        if (config["refit"] is None) != (first["refit"] is None):
            raise InputError(f"{run} and {runs[0]}: a refit and a run that is none")
        if config["seed"] in seeds:
            raise InputError(f"{run}: its seed {config['seed']} is that of {seeds[config['seed']]}")
        seeds[config["seed"]] = run


def table_over_seeds(runs: Sequence[Run]) -> str:
    """Markdown: models × figures, the default's differences to every other model, seconds and memory of the stages.

    Args:
        runs: that `check_runs` let pass, with reports.

    Raises:
        InputError: the test cases differ, as with cold items drawn by other seeds.
    """
    cases = [hash_file(run.path / "split/test.parquet") for run in runs]
    for run, its_cases in zip(runs, cases, strict=True):
        if its_cases != cases[0]:
            raise InputError(f"{run}: its test cases are others than those of {runs[0]}")
    return "\n".join([_figures(runs), differences(runs), _costs(runs)])


def _figures(runs: Sequence[Run]) -> str:
    values: dict[str, dict[tuple[str, str, int], list[float]]] = {}
    for run in runs:
        for row in (row for row in run.metrics() if row["split"] == "test"):  # not what the search is diagnosed on
            key = row["slice"], row["metric"], row["k"]
            values.setdefault(row["model"].removesuffix(DEFAULT), {}).setdefault(key, []).append(row["value"])
    columns = {name: key for name, key in COLUMNS.items() if any(key in figures for figures in values.values())}
    lines = [[model, *(_spread(figures.get(key, [])) for key in columns.values())] for model, figures in values.items()]
    return markdown(["model", *columns], lines)


def differences(runs: Sequence[Run]) -> str:
    """Markdown: the default ranking minus every other model, paired, over one run or the mean of several."""
    split = runs[0].split()
    groups = slices(tested_cases(split.test, runs[0].fitted_items), split.train, runs[0].fitted_items)
    ranks = [run.ranks() for run in runs]
    models = dict.fromkeys(row["model"] for row in runs[0].metrics())
    ours = next((model.removesuffix(DEFAULT) for model in models if model.endswith(DEFAULT)), "genrec fused")

    def per_case(model: str, metric: str, k: int) -> Values:
        return np.mean([METRICS[metric](of_seed[model].astype(np.int64), k) for of_seed in ranks], axis=0)

    def difference(model: str, group: str, metric: str, k: int) -> str:
        members = groups.get(group)
        if members is None:
            return ""
        return paired_interval(per_case(ours, metric, k)[members], per_case(model, metric, k)[members]).signed()

    others = [model for model in ranks[0] if model != ours]
    lines = [[model, *(difference(model, *COLUMNS[name]) for name in _DIFFERENCES)] for model in others]
    return markdown([f"{ours} minus", *_DIFFERENCES], lines)


def _costs(runs: Sequence[Run]) -> str:
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    for run in runs:
        for stage, (spent, peak) in stage_costs(run).items():
            seconds.setdefault(stage, []).append(spent)
            peaks.setdefault(stage, []).append(peak)
    lines = [
        [stage, f"{np.mean(values):,.0f}", f"{max(peaks[stage]):,.0f}" if max(peaks[stage]) else ""]
        for stage, values in seconds.items()
    ]
    return markdown(["stage", "seconds", "peak memory of the process so far, MiB"], lines)


def stage_costs(run: Run) -> dict[str, tuple[float, float]]:
    """Seconds, and MiB (0 where not logged), of each stage that was made in this run and not linked from another.

    Of a stage with epochs the seconds of all its epochs count, so that an interrupted one counts whole.
    """
    last = {row["stage"]: row for row in run.log_rows() if row.get("event") == "done"}
    epochs = run.epoch_seconds()
    return {
        stage: (max(row["seconds"], epochs.get(_EPOCHS.get(stage, ""), 0.0)), row.get("peak_mib", 0.0))
        for stage, row in last.items()
    }


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
