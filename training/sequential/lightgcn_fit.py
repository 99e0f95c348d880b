"""Fits LightGCN: every edge of the graph is a user's vector that a softmax over the catalogue compares with its item's.

The paper's pairwise loss has one drawn negative; the softmax has all of them and trains the other models too, so
that they differ by what they read alone. Both spread their vectors over the graph once a batch, which
is most of the work: batches are large.

Shapes: M edges of a batch, N items, U users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from genrec.data.splits import Split
from genrec.sequential.base import ColdItems
from genrec.sequential.lightgcn import LightGcn
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import SequentialTrainingConfig
from genrec.training.sequential.fit import (
    RecommenderObjective,
    Softmax,
    fit_recommender,
    validation_recall,
)


def fit_lightgcn(
    make_model: Callable[[], LightGcn],
    split: Split,
    config: SequentialTrainingConfig,
    context: FitContext,
    *,
    exclude_seen: bool = True,
    negatives: int | None = None,
    cold: ColdItems | None = None,
    stage: str = "collaborative",
) -> LightGcn:
    """Train on the model's graph, choose the epoch on `split.valid`; arguments as of `fit_sequential`.

    On the CPU: the products with the graph are SciPy's.
    `batch_positions` counts edges.
    """
    torch.manual_seed(config.seed)
    model = make_model()
    items = model.graph.tocoo().col
    softmax = Softmax(np.bincount(items, minlength=model.n_items), negatives, cold)
    cases = split.valid.sample(config.valid_cases, config.seed)

    def validate() -> float:
        return validation_recall(model.scorer(cold), cases, exclude_seen=exclude_seen)

    fit_recommender(_Edges(model, softmax, validate, config.batch_positions), model, config, context, stage)
    return model


class _Edges(RecommenderObjective):
    """Every edge is a target."""

    def __init__(self, model: LightGcn, softmax: Softmax, recall: Callable[[], float], batch_edges: int) -> None:
        super().__init__(model, softmax, recall)
        edges = model.graph.tocoo()
        self._users, self._items = (torch.from_numpy(ends.astype(np.int64)) for ends in (edges.row, edges.col))
        self._batch_edges = batch_edges

    def batches(self, epoch: int, rng: np.random.Generator) -> Sequence[Tensor]:
        """The edges in random order."""
        self.model.train()
        order: Tensor = torch.randperm(len(self._users))
        return torch.split(order, self._batch_edges)

    def loss(self, batch: Tensor, moment: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Cross-entropy of the edges' items."""
        user_vectors, item_vectors = self.model()
        items = self._items[batch]
        loss = self.softmax(user_vectors[self._users[batch]], item_vectors, items)
        return self.with_table(loss, len(batch), items, moment)
