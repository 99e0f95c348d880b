"""LightGCN (He et al., SIGIR 2020, arXiv 2002.02126) on the split of a run, as a baseline beside its report.

    python scripts/lightgcn.py runs/scientific --seeds 0 1 2

Item and user vectors are spread over the user-item graph:

    R^ = D_u^(-1/2) R D_i^(-1/2),   users_(l+1) = R^ items_l,   items_(l+1) = R^T users_l      (equation 3)
    z  = mean over l = 0..L of layer l                                                          (equation 4)

A history is scored as a user who interacted with these items and has no vector of its own, by layers 1..L of such a
user,

    z_h = 1 / (L + 1) sum over l = 0..L-1 and items i of h of  items_l[i] / sqrt(|h| d_i),

against the items' z; its order is not read. Every edge is a target of the softmax over the catalogue that trains the
other models too (the paper's loss has one drawn negative), so that they differ by what they read alone.

Shapes: N items, U users, D width, B histories, L layers of propagation, M edges of a batch.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from genrec.data.cases import Split
from genrec.data.sequences import Sequences
from genrec.data.user_items import user_item_matrix
from genrec.evaluation.tables import evaluate, format_table, rank
from genrec.run import Run
from genrec.semtok.aligners.base import IdTable
from genrec.semtok.aligners.graph_attention import Edges, propagate, propagate_back
from genrec.semtok.aligners.graphs import bipartite
from genrec.semtok.errors import InputError
from genrec.sequential.base import ColdItems, Scores
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import SequentialTrainingConfig
from genrec.training.sequential.fit import (
    RecommenderObjective,
    Softmax,
    fit_recommender,
    validation_recall,
)


class LightGcn(nn.Module):
    """Layer 0 of items and users, and the graph.

    Args:
        user_item: [U, N], 1 where a user interacted with an item in training.
    """

    def __init__(self, user_item: csr_array, width: int = 128, layers: int = 1) -> None:
        super().__init__()
        self.items, self.users = IdTable(user_item.shape[1], width), nn.Embedding(user_item.shape[0], width)
        nn.init.normal_(self.users.weight, std=0.02)
        self.edges, self.layers = Edges(bipartite(user_item)), layers
        # An item without an edge has degree 1 for those who ask about it.
        degrees = np.asarray(user_item.sum(axis=0))
        self._history_weights = torch.from_numpy(np.maximum(degrees, 1) ** -0.5).float()
        self._unseen = degrees == 0

    def propagated(self) -> tuple[Tensor, Tensor, Tensor]:
        """z of the users [U, D] and of the items [N, D], and the sum of the items' layers 0..L-1, which users read."""
        users, items = self.users.weight, self.items()
        user_sum, item_sum, read = users, items, torch.zeros_like(items)
        for _ in range(self.layers):
            read = read + items
            users, items = propagate(self.edges, items), propagate_back(self.edges, users)
            user_sum, item_sum = user_sum + users, item_sum + items
        return user_sum / (self.layers + 1), item_sum / (self.layers + 1), read

    def scorer(self) -> Callable[[Sequences], Scores]:
        """From histories to scores float32 [B, N] by the present weights; an item without an edge has -inf."""
        with torch.inference_mode():
            _, items, read = self.propagated()
            held = (read * self._history_weights[:, None] / (self.layers + 1)).numpy()

        def score(histories: Sequences) -> Scores:
            asked = user_item_matrix(histories, len(held))
            users = asked @ held / np.sqrt(np.maximum(asked.sum(axis=1), 1))[:, None]
            scores: Scores = (users @ items.numpy().T).astype(np.float32, copy=False)
            scores[:, self._unseen] = -np.inf
            return scores

        return score


class Edge(RecommenderObjective):
    """Every edge is a target."""

    def __init__(self, model: LightGcn, softmax: Softmax, recall: Callable[[], float], batch_edges: int) -> None:
        super().__init__(model, softmax, recall)
        self._batch_edges = batch_edges

    def batches(self, epoch: int, rng: np.random.Generator) -> Sequence[Tensor]:
        self.model.train()
        return torch.split(torch.randperm(len(self.model.edges.source)), self._batch_edges)

    def loss(self, batch: Tensor, moment: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        users, vectors, _ = self.model.propagated()
        items = self.model.edges.source[batch].long()
        loss = self.softmax(users[self.model.edges.target[batch]], vectors, items)
        return self.with_table(loss, len(batch), items, moment)


def fit(
    make: Callable[[csr_array], LightGcn],
    split: Split,
    n_items: int,
    config: SequentialTrainingConfig,
    context: FitContext,
    *,
    exclude_seen: bool,
) -> LightGcn:
    """Train on `split.train`; the model has the weights of the best epoch on `split.valid`."""
    torch.manual_seed(config.seed)
    model = make(user_item_matrix(split.train, n_items))
    counts = np.bincount(split.train.values, minlength=n_items)
    unseen = np.flatnonzero(counts == 0)  # these are no classes of the softmax
    softmax = Softmax(counts, None, ColdItems(unseen, np.empty((len(unseen), 0), dtype=np.float32)))
    cases = split.valid.sample(config.valid_cases, config.seed)

    def recall() -> float:
        return validation_recall(model.scorer(), cases, exclude_seen=exclude_seen)

    fit_recommender(Edge(model, softmax, recall, config.batch_positions), model, config, context, "lightgcn")
    return model


def main() -> None:
    """Fit a model a seed and print their figures on the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of genrec fit, whose split is taken")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--layers", type=int, default=1, help="the best of 1, 2 and 3 on validation of Scientific")
    parser.add_argument("--epochs", type=int, default=48)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with Run.open(arguments.run) as run:
            split, n_items, lists = run.split(), len(run.catalog()), {}
        for seed in arguments.seeds:
            config = SequentialTrainingConfig(arguments.epochs, batch_positions=4096, patience=8, seed=seed)
            with tempfile.TemporaryDirectory() as work:
                make, context = partial(LightGcn, layers=arguments.layers), FitContext(Path(work))
                model = fit(make, split, n_items, config, context, exclude_seen=run.exclude_seen)
            name = f"LightGCN, seed {seed}"
            lists[name] = rank(model.scorer(), split.test.histories, exclude_seen=run.exclude_seen)
    except InputError as error:
        sys.exit(f"lightgcn: {error}")
    print(format_table(evaluate(lists, split.test, split.train, n_items)))


if __name__ == "__main__":
    main()
