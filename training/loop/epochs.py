"""The one training loop. The language model, the sequential models, aligners and encoders each give it their batches,
their loss and their validation; accumulation, clipping, the schedule, the choice of the epoch, checkpoints that resume
to the same bytes and the log are here.

    fit_epochs(objective, OneProcess(model, adamw((model.parameters(), 1e-3))), plan, FitContext(workdir, log))

An epoch is a pass over the data, or a fixed number of steps where a fit counts these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.training.loop.checkpoint import read_best, remove_best, save_checkpoint, write_best
from genrec.training.loop.schedule import Warmup, drop_waiting_gradients, set_learning_rates
from genrec.training.loop.weights import Weights

Log = Callable[[Mapping[str, Any]], None]
Progress = Callable[[int, int], None]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class FitContext:
    """Where a fit keeps its work, and whom it tells."""

    # holds the checkpoint of an interrupted fit, from which it goes on to the same weights; gets `training.json`, the
    # log without times
    workdir: Path
    log: Log = lambda row: None  # gets one row an epoch
    progress: Progress = lambda done, total: None  # told (steps done, steps at most)
    # train exactly so many epochs of the schedule, validate none and keep the last: a refit, which has nothing left to
    # validate on
    stop_after: int | None = None


@dataclass(frozen=True)
class Passes:
    """A fit of so many passes over its data, at most."""

    epochs: int

    def span(self, epoch: int, batches: int) -> tuple[int, int]:
        """The number of an epoch's first step, and of all steps, by the batches of this epoch."""
        return epoch * batches, self.epochs * batches

    def named(self, epochs: int) -> dict[str, int]:
        """What the log calls the last of so many epochs."""
        return {"epoch": epochs - 1}


@dataclass(frozen=True)
class Steps:
    """A fit of so many steps, at most, with a validation after every few."""

    steps: int
    every: int

    @property
    def epochs(self) -> int:
        """Stretches of `every` steps; the last may be shorter."""
        return -(-self.steps // self.every)

    def numbers(self, epoch: int) -> range:
        """The steps of an epoch."""
        return range(epoch * self.every, min(self.steps, (epoch + 1) * self.every))

    def span(self, epoch: int, batches: int) -> tuple[int, int]:
        """As of `Passes`."""
        return epoch * self.every, self.steps

    def named(self, epochs: int) -> dict[str, int]:
        """As of `Passes`: the steps done by then."""
        return {"step": min(self.steps, epochs * self.every)}


@dataclass(frozen=True)
class Plan:
    """How a fit runs."""

    stage: str  # what the rows of the log are about
    length: Passes | Steps  # epochs or steps at most
    seed: int  # of every epoch's batches and dropout
    diverged: str  # the error where weights are no longer numbers: what to lower
    selection: str | None = None  # the figure of the validation that chooses the epoch; None: the last one is kept
    patience: int = 1  # epochs without a better one before stopping
    from_start: bool = False  # the untrained model is validated too, and may be the best
    warmup: Warmup = field(default_factory=Warmup)  # of the learning rate


class Objective(ABC):
    """What is optimised: all that differs from fit to fit."""

    @abstractmethod
    def batches(self, epoch: int, rng: np.random.Generator) -> Sequence[Any]:
        """This process's batches of an epoch; puts the model in the mode that it trains in.

        Randomness comes from `rng` and torch's generator alone, which are seeded by the epoch: resumed, it is the same.
        """

    @abstractmethod
    def loss(self, batch: Any, moment: float) -> tuple[Tensor | None, Mapping[str, Tensor | float]]:
        """What a step minimises, None where a batch teaches nothing, and what is summed up for `figures`.

        Args:
            moment: epochs done, with the part of this one.
        """

    @abstractmethod
    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What the log says of an epoch's training, from the sums over its batches."""

    @abstractmethod
    def validate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """Figures of the model as it stands, in evaluation mode; on the main process.

        Args:
            rows: the log so far.
        """


def fit_epochs(objective: Objective, weights: Weights, plan: Plan, context: FitContext) -> int:
    """Train; leave the chosen epoch's weights in `weights.model`, in evaluation mode, on the main process.

    Returns:
        How many epochs they were trained for; 0 where the untrained model is the best.

    Raises:
        InputError: the training diverged, or the work folder is of another version's fit.
    """
    start: dict[str, Any] = {"epochs": 0, "best": -1.0, "best_epochs": 0, "rows": []}
    state = weights.load(context.workdir) or start
    if state.keys() != start.keys():
        raise InputError(f"{context.workdir}: a fit that another version of genrec began; remove the folder")
    chooses = plan.selection is not None and context.stop_after is None
    if plan.from_start and not state["rows"] and weights.main:
        _end_epoch(objective, weights, plan, context, state, {})
    for epoch in range(state["epochs"], context.stop_after or plan.length.epochs):
        if chooses and epoch - state["best_epochs"] >= plan.patience:
            break
        started = perf_counter()
        figures = _train_epoch(objective, weights, plan, context, epoch)
        seconds = perf_counter() - started
        moments = weights.gather()
        finite = all(bool(p.isfinite().all()) for p in weights.model.parameters() if p.requires_grad)
        if not weights.agree(finite):  # every process stops, or the others would wait for the main one
            raise InputError(plan.diverged)
        if weights.main:
            state["epochs"] = epoch + 1
            _end_epoch(objective, weights, plan, context, state, figures, seconds)
            save_checkpoint(context.workdir, weights.model, moments, state)
            remove_best(context.workdir, but=state["best_epochs"])
        state = weights.agree(state)
    if weights.main:
        write_atomic(context.workdir / "training.json", to_json(state["rows"]))
        if chooses:
            read_best(context.workdir, weights.model, state["best_epochs"])
        weights.model.eval()
    return int(state["best_epochs"] if chooses else state["epochs"])


def _train_epoch(
    objective: Objective, weights: Weights, plan: Plan, context: FitContext, epoch: int
) -> dict[str, float]:
    """One pass; returns its figures."""
    torch.manual_seed(plan.seed * 100_003 + epoch)
    batches = objective.batches(epoch, np.random.default_rng((plan.seed, epoch)))
    first, total = plan.length.span(epoch, len(batches))
    at_most = total if context.stop_after is None else min(total, context.stop_after * len(batches))
    sums: list[Mapping[str, Tensor | float]] = []
    groups = weights.optimizer.param_groups
    for place, batch in enumerate(batches):
        set_learning_rates(groups, first + place, total, plan.warmup)
        # The last batch of an epoch steps too: a checkpoint holds no gradients.
        steps = (place + 1) % weights.accumulation == 0 or place + 1 == len(batches)
        with weights.batch(steps=steps):
            loss, parts = objective.loss(batch, epoch + place / len(batches))
            if loss is not None:
                weights.backward(loss)
                drop_waiting_gradients(groups)
                weights.step()
        sums.append({name: part.detach() if isinstance(part, Tensor) else part for name, part in parts.items()})
        context.progress(first + place + 1, at_most)
    return objective.figures({name: sum(float(parts[name]) for parts in sums) for name in sums[0]})


def _end_epoch(
    objective: Objective,
    weights: Weights,
    plan: Plan,
    context: FitContext,
    state: dict[str, Any],
    figures: Mapping[str, float],
    seconds: float = 0.0,
) -> None:
    """Validate, log, and keep the weights where they are the best so far."""
    weights.model.eval()
    started = perf_counter()
    row = {"stage": plan.stage, **plan.length.named(state["epochs"]), **figures}
    if context.stop_after is None:
        row |= objective.validate(state["rows"])
    context.log(row | {"seconds": seconds, "valid_seconds": perf_counter() - started})
    state["rows"].append(row)
    selected = row.get(plan.selection or "")
    if selected is not None and selected > state["best"]:
        state |= {"best": selected, "best_epochs": state["epochs"]}
        write_best(context.workdir, weights.model, state["epochs"])
