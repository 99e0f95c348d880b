"""Fits LightGCN: every edge of the graph is a user's vector that a softmax over the catalogue compares with its item's.

The paper's pairwise loss has one drawn negative; the softmax has all of them and is what the other models here are
trained with, so that they differ by what they read alone. Both spread their vectors over the graph once a batch, which
is most of the work: batches are large.

Shapes: M edges of a batch, N items, U users.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from genrec.data.splits import Split
from genrec.sequential import ColdItems, LightGcn
from genrec.training.loop.epochs import Log, Progress, fit_epochs
from genrec.training.sequential.fit import (
    SequentialTrainingConfig,
    Softmax,
    sample_cases,
    set_learning_rate,
    validation_recall,
)


def fit_lightgcn(
    make_model: Callable[[], LightGcn],
    split: Split,
    config: SequentialTrainingConfig,
    workdir: Path,
    log: Log,
    *,
    exclude_seen: bool = True,
    negatives: int | None = None,
    cold: ColdItems | None = None,
    stage: str = "collaborative",
    progress: Progress = lambda done, total: None,
) -> LightGcn:
    """Train on the model's graph, choose the epoch on `split.valid`; arguments as of `fit_sequential`.

    `batch_positions` counts edges.
    """
    torch.manual_seed(config.seed)
    model = make_model()
    edges = model.graph.tocoo()
    users, items = torch.from_numpy(edges.row.astype(np.int64)), torch.from_numpy(edges.col.astype(np.int64))
    softmax = Softmax(np.bincount(edges.col, minlength=model.n_items), negatives, cold)
    cases = sample_cases(split.valid, config.valid_cases, config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )

    def train_epoch(epoch: int) -> float:
        """One pass over the edges; returns the mean loss of an edge. Randomness depends on (seed, epoch) alone."""
        model.train()
        torch.manual_seed(config.seed * 100_003 + epoch)
        groups = torch.randperm(len(users)).split(config.batch_positions)
        total = 0.0
        for step, group in enumerate(groups):
            set_learning_rate(optimizer, config.learning_rate, epoch * len(groups) + step, len(groups) * config.epochs)
            user_vectors, item_vectors = model()
            loss = softmax(user_vectors[users[group]], item_vectors, items[group])
            aligned = model.items.loss(torch.unique(items[group]), epoch + step / len(groups))
            optimizer.zero_grad(set_to_none=True)
            (loss / len(group) + aligned).backward()
            optimizer.step()
            total += loss.item()
        return total / len(users)

    fit_epochs(
        model,
        optimizer,
        train_epoch,
        lambda: validation_recall(model.scorer(cold), cases, exclude_seen=exclude_seen),
        epochs=config.epochs,
        patience=config.patience,
        workdir=workdir,
        stage=stage,
        log=log,
        progress=progress,
    )
    return model
