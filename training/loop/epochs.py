"""The loop around a recommender's epochs: the one with the best validation recall wins, and an interrupted fit goes on.

Nothing here knows what an epoch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer

from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.training.loop.checkpoint import load_checkpoint, save_checkpoint, whole_state, write_tensors

Log = Callable[[Mapping[str, Any]], None]
Progress = Callable[[int, int], None]
DIVERGED = (
    "the training of a recommender diverged: its {what} are not numbers; lower its learning_rate (fit:"
    " --collaborative.learning_rate or --aligner.training.learning_rate, compare: --training.learning_rate)"
)


def fit_epochs(
    model: nn.Module,
    optimizer: Optimizer,
    train_epoch: Callable[[int], float],
    valid_recall: Callable[[], float],
    *,
    epochs: int,
    patience: int,
    workdir: Path,
    stage: str,
    log: Log,
    progress: Progress,
    stop_after: int | None = None,
) -> None:
    """Train until the validation recall has not risen for `patience` epochs; leave the best epoch's weights in `model`.

    Args:
        train_epoch: trains the epoch of a number and returns its mean loss; its randomness must come from that number.
        valid_recall: of the model as it stands.
        workdir: holds the checkpoint of an interrupted fit, from which it goes on to the same weights; gets
            `training.json`, the log without times.
        stage: what the rows of the log are about.
        log: gets one row an epoch.
        progress: told (epochs done, epochs at most).
        stop_after: train exactly so many epochs, validate none and keep the last: a refit, which has nothing left to
            validate on.

    Raises:
        InputError: the training diverged; a refit would not notice by its recall.
    """
    start: dict[str, Any] = {"epoch": 0, "best": -1.0, "best_epoch": -1, "rows": []}
    state = load_checkpoint(workdir, {"model": model}, optimizer) or start
    for epoch in range(state["epoch"], stop_after or epochs):
        if stop_after is None and epoch - state["best_epoch"] > patience and state["best_epoch"] >= 0:
            break
        started = perf_counter()
        loss = train_epoch(epoch)
        trained = perf_counter()
        if not (math.isfinite(loss) and all(bool(weights.isfinite().all()) for weights in model.parameters())):
            raise InputError(DIVERGED.format(what="weights"))
        row = {"stage": stage, "epoch": epoch, "loss": loss}
        if stop_after is None:
            row["valid_recall@10"] = valid_recall()
        log(row | {"seconds": trained - started, "valid_seconds": perf_counter() - trained})
        state["rows"].append(row)
        if stop_after is not None or row["valid_recall@10"] > state["best"]:
            write_tensors(workdir / f"best-{epoch}.safetensors", model.state_dict())
            state |= {"best": row.get("valid_recall@10"), "best_epoch": epoch}
        state["epoch"] = epoch + 1
        save_checkpoint(workdir, {"model": model}, whole_state(optimizer), state)
        for stale in workdir.glob("best-*.safetensors"):
            if stale.name != f"best-{state['best_epoch']}.safetensors":
                stale.unlink()
        progress(epoch + 1, stop_after or epochs)
    write_atomic(workdir / "training.json", to_json(state["rows"]))
    model.load_state_dict(load_file(workdir / f"best-{state['best_epoch']}.safetensors"))
    model.eval()
