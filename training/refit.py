"""What a run chose on validation, for a refit that learns from the validation items too and has nothing left to choose.

genrec fit configs/beauty.yaml                                         # chooses epochs and fusion weights
genrec fit configs/beauty.yaml --run runs/refit --refit runs/beauty    # trains as long, on all but the test items
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.training.run_folder import read_settings

_FREE = ("run", "refit", "reuse", "topk")  # what a refit may set otherwise


def check_same_settings(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse a refit of other settings than the run's, whose choices would mean nothing.

    Args:
        config: the resolved configuration of the refit.

    Raises:
        InputError: no finished run, no settings in it, or the first section that differs.
    """
    if not (run / "report/metrics.json").is_file():
        raise InputError(f"--refit {run}: not a finished run of genrec fit")
    before = read_settings(run / "config.yaml")
    other = other_section(before, config, _FREE)
    if other is not None:
        raise InputError(f"--refit {run}: its {other} settings are others; give the refit the same configuration")
    if before.get("refit") is not None:
        raise InputError(f"--refit {run}: is a refit itself and chose nothing")


def other_section(one: Mapping[str, Any], other: Mapping[str, Any], free: Collection[str]) -> str | None:
    """The first section in which two resolved configurations differ, but for the free ones."""
    return next((name for name in other if name not in free and one.get(name) != other[name]), None)


def chosen_epochs(folder: Path) -> int:
    """How many epochs the chosen weights of a trained stage had been trained for.

    Raises:
        InputError: the stage has no log of its training.
    """
    rows = read_json(folder / "training.json")
    name = "selection" if "selection" in rows[0] else "valid_recall@10"
    best = max(rows, key=lambda row: row[name])  # the first of equals, as in training
    return int(best["epoch"]) + 1


def chosen_weights(run: Path) -> FusionWeights:
    """The fusion weights of the fused ranking that a run ended with."""
    ranking = read_json(run / "lm/genrec.json")["ranking"]
    return FusionWeights(ranking["dense_weight"], ranking["cooccurrence_weight"], ranking["sequential_weight"])


def with_weights(ranking: RankingConfig, weights: FusionWeights) -> RankingConfig:
    """The same ranking with chosen fusion weights."""
    dense, cooccurrence, sequential = weights
    return replace(ranking, dense_weight=dense, cooccurrence_weight=cooccurrence, sequential_weight=sequential)
