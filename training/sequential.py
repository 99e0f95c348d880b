"""Fits a sequential model on item ids with a softmax over the whole catalogue.

Every position of every history is a target. Batches hold sequences of like length, so padding is a few percent. The
epoch with the best validation recall wins; the loop stops when it has not improved for `patience` epochs.

Shapes: B sequences of a batch, T positions of the longest, M targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from genrec.sequences import Sequences
from genrec.sequential.sasrec import SasRec
from genrec.splits import Cases, Split
from semtok.errors import InputError
from semtok.folders import to_json, write_atomic
from training.batching import batches, windows
from training.checkpoint import load_checkpoint, save_checkpoint, write_tensors
from training.losses import linear_cross_entropy
from training.schedule import learning_rate_factor

Log = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class SequentialTrainingConfig:
    """How a sequential model is trained.

    Attributes:
        epochs: passes over the histories at most.
        patience: epochs without a better validation recall before stopping.
        batch_positions: padded positions of a batch.
        learning_rate: peak, AdamW with betas (0.9, 0.98).
        weight_decay: AdamW's.
        valid_cases: validation cases ranked after each epoch (drawn by seed where there are more).
        seed: initialisation, dropout and batches.
    """

    epochs: int = 40
    patience: int = 6
    batch_positions: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    valid_cases: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_positions", "valid_cases"):
            if getattr(self, name) < 1:
                raise InputError(f"--collaborative.{name} {getattr(self, name)} must be at least 1")
        if self.learning_rate <= 0:
            raise InputError(f"--collaborative.learning_rate {self.learning_rate} must be positive")


def fit_sequential(
    make_model: Callable[[], SasRec],
    split: Split,
    config: SequentialTrainingConfig,
    workdir: Path,
    log: Log,
    *,
    exclude_seen: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SasRec:
    """Train on `split.train`, choose the epoch on `split.valid`.

    Args:
        make_model: builds the untrained model; called under the seed.
        workdir: holds the checkpoint of an interrupted fit, from which it goes on to the same weights; gets
            `training.json`, the log without times.
        log: gets one row an epoch.
        exclude_seen: rank without the items of the history when validating.
        progress: told (epochs done, epochs at most).

    Returns:
        The model with the weights of the best epoch, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    model = make_model()
    sequences = _training_sequences(split.train, model.config.max_items)
    cases = sample_cases(split.valid, config.valid_cases, config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    state = load_checkpoint(workdir, {"model": model}, optimizer) or {
        "epoch": 0,
        "best": -1.0,
        "best_epoch": -1,
        "rows": [],
    }
    lengths = np.array([len(inputs) for inputs, _ in sequences])
    for epoch in range(state["epoch"], config.epochs):
        if epoch - state["best_epoch"] > config.patience and state["best_epoch"] >= 0:
            break
        started = perf_counter()
        loss = _train_epoch(model, sequences, lengths, optimizer, config, epoch)
        trained = perf_counter()
        recall = validation_recall(model.score, cases, exclude_seen=exclude_seen)
        row = {"stage": "collaborative", "epoch": epoch, "loss": loss, "valid_recall@10": recall}
        log(row | {"seconds": trained - started, "valid_seconds": perf_counter() - trained})
        state["rows"].append(row)
        if recall > state["best"]:
            write_tensors(workdir / f"best-{epoch}.safetensors", model.state_dict())
            state |= {"best": recall, "best_epoch": epoch}
        state["epoch"] = epoch + 1
        save_checkpoint(workdir, {"model": model}, optimizer, state)
        for stale in workdir.glob("best-*.safetensors"):
            if stale.name != f"best-{state['best_epoch']}.safetensors":
                stale.unlink()
        progress(epoch + 1, config.epochs)
    write_atomic(workdir / "training.json", to_json(state["rows"]))
    model.load_state_dict(load_file(workdir / f"best-{state['best_epoch']}.safetensors"))
    return model.eval()


def sample_cases(cases: Cases, n: int, seed: int) -> Cases:
    """At most `n` cases, drawn by seed."""
    if len(cases) <= n:
        return cases
    chosen = np.sort(np.random.default_rng(seed).permutation(len(cases))[:n])
    return Cases(
        tuple(cases.case_ids[i] for i in chosen),
        tuple(cases.user_ids[i] for i in chosen),
        cases.histories.take(chosen),
        cases.targets[chosen],
        None if cases.same_day is None else cases.same_day[chosen],
        cases.cold[chosen],
    )


def validation_recall(
    score: Callable[[Sequences], NDArray[np.float32]],
    cases: Cases,
    *,
    k: int = 10,
    exclude_seen: bool,
    batch: int = 1024,
) -> float:
    """Recall@k over the whole catalogue; an item that ties with the target counts as ranked before it."""
    hits = 0
    for start in range(0, len(cases), batch):
        index = np.arange(start, min(start + batch, len(cases)))
        histories, targets = cases.histories.take(index), cases.targets[index]
        scores = score(histories)
        own = scores[np.arange(len(index)), targets].copy()
        if exclude_seen:
            scores[np.repeat(np.arange(len(index)), histories.lengths), histories.values] = -np.inf
        scores[np.arange(len(index)), targets] = -np.inf
        hits += int(((scores >= own[:, None]).sum(axis=1) < k).sum())
    return hits / max(1, len(cases))


def _training_sequences(train: Sequences, max_items: int) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """(inputs, targets) rows: targets are -1 where an earlier window had them already."""
    rows = []
    for history in train:
        for start, first_target, end in windows(len(history), max_items + 1):
            targets = history[start + 1 : end].copy()
            targets[: max(0, first_target - start - 1)] = -1
            if len(targets):
                rows.append((history[start : end - 1], targets))
    if not rows:
        raise InputError("no training history has two items: nothing to learn a sequence from")
    return rows


def _train_epoch(
    model: SasRec,
    sequences: list[tuple[NDArray[np.int32], NDArray[np.int32]]],
    lengths: NDArray[np.int64],
    optimizer: torch.optim.Optimizer,
    config: SequentialTrainingConfig,
    epoch: int,
) -> float:
    """One pass; returns the mean loss of a target.

    Randomness depends on (seed, epoch) alone, so a resumed epoch is the same.
    """
    model.train()
    torch.manual_seed(config.seed * 100_003 + epoch)
    groups = batches(lengths, config.batch_positions, np.random.default_rng((config.seed, epoch)))
    total_steps, total_loss, total_targets = len(groups) * config.epochs, 0.0, 0
    for step, group in enumerate(groups, start=epoch * len(groups)):
        for settings in optimizer.param_groups:
            settings["lr"] = config.learning_rate * learning_rate_factor(
                step, total_steps, min(100, total_steps // 10 + 1)
            )
        longest = int(lengths[group].max())
        inputs = torch.full((len(group), longest), model.n_items)
        targets = torch.full((len(group), longest), -1)
        for row, index in enumerate(group):
            inputs[row, : lengths[index]] = torch.from_numpy(sequences[index][0])
            targets[row, : lengths[index]] = torch.from_numpy(sequences[index][1])
        wanted = targets >= 0
        hidden = model(inputs)[wanted]
        loss = linear_cross_entropy(hidden, model.item_vectors, targets[wanted])
        optimizer.zero_grad(set_to_none=True)
        (loss / len(hidden)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total_loss, total_targets = total_loss + loss.item(), total_targets + len(hidden)
    return total_loss / total_targets
