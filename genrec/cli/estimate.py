"""One line when a run begins: what it is about, and about how long it will take on one CPU core.

The constants are seconds measured for the runs of docs/results (one thread, a busy two-core machine), rounded: a
promise of minutes or hours, not of seconds. Training may stop earlier than its epochs.
"""

from __future__ import annotations

import math
from collections.abc import Container

from genrec.cli.by_data import DataSize
from genrec.cli.config import FUSION, FitConfig
from genrec.training.lm.config import SCRATCH
from genrec.training.sequential.config import FULL_SOFTMAX, NEGATIVES

_TEXT = {"tfidf": 1e-3, "minilm": 0.03}  # an item
_EVENT, _SOFTMAX = 5e-5, 1.3e-8  # of a sequential model: an event and epoch, and that for each item of the softmax
_ALIGNED = 3.0  # an aligner's training, in those of a model of ID vectors
_LM = 8e-4  # an event and epoch at 2 layers of width 128
_REPORT = 7e-3  # a user


def opening_line(config: FitConfig, size: DataSize, stages: Container[str]) -> str:
    """`8,317 users, 4,344 items, 58,492 interactions; encoder minilm; about 14 minutes`.

    Args:
        stages: the folders of the stages that are to be made.
    """
    data = f"{size.users:,} users, {size.items:,} items, {size.interactions:,} interactions"
    seconds = estimated_seconds(config, size, stages)
    time = "time unknown for this encoder or base" if seconds is None else f"about {_rounded(seconds)} on one core"
    return f"{data}; encoder {config.text.encoder}, aligner {config.aligner.name}, base {config.lm.base}; {time}"


def estimated_seconds(config: FitConfig, size: DataSize, stages: Container[str]) -> float | None:
    """Seconds of the stages that are to be made; None where a part's speed depends on a model that nobody measured."""
    event = _EVENT + _SOFTMAX * (size.items if size.items <= FULL_SOFTMAX else NEGATIVES)
    costs = {
        "vectors/text": _TEXT.get(config.text.encoder, float("nan")) * size.items,
        "vectors/collaborative": event * config.collaborative.epochs * size.interactions,
        "vectors/item": 0.0
        if config.aligner.name == FUSION
        else _ALIGNED * event * config.aligner.training.epochs * size.interactions,
        "lm": _lm_epoch(config) * config.lm.epochs * size.interactions,
        "report": _REPORT * size.users,
    }
    total = sum(seconds for stage, seconds in costs.items() if stage in stages)
    return None if math.isnan(total) else total


def _lm_epoch(config: FitConfig) -> float:
    """Seconds of an event and epoch; a transformer's work grows with its layers and the square of its width."""
    if config.lm.base != SCRATCH:
        return float("nan")
    return _LM * max(1.0, config.lm.layers / 2 * (config.lm.width / 128) ** 2)


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return "a minute"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{round(seconds / 3600)} hours"
