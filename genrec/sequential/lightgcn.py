"""LightGCN: item and user vectors spread over the user-item graph (He et al., SIGIR 2020, arXiv 2002.02126).

    R^ = D_u^(-1/2) R D_i^(-1/2),   users_(l+1) = R^ items_l,   items_(l+1) = R^T users_l      (equation 3)
    z  = mean over l = 0..L of layer l                                                          (equation 4)

Layer 0 of the items is an item table, so it takes ID vectors or fused ones like every other model here; layer 0 of the
users is free. A history is scored as a user who interacted with these items and has no vector of its own, by layers
1..L of such a user,

    z_h = 1 / (L + 1) sum over l = 0..L-1 and items i of h of  items_l[i] / sqrt(|h| d_i),

against the items' z. The order of a history is not read.

Shapes: N items, U users, D width, B histories, L layers of propagation, M cold items.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.sparse import csr_array
from torch import Tensor, nn

from genrec.data.sequences import Sequences
from genrec.semtok.aligners.base import ItemTable
from genrec.semtok.arrays import read_tensors, state_spec
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.sequential.base import ColdItems, Scorer, Scores, evaluating
from genrec.sequential.config import LightGcnConfig


class LightGcn(nn.Module):
    """The two layer-0 tables and the graph.

    Args:
        items: layer 0 of the items, of the configuration's width.
        user_item: [U, N], 1 where a user interacted with an item in training.
        config: shape.

    Raises:
        InputError: widths or numbers of items differ.
    """

    def __init__(self, items: ItemTable, user_item: csr_array, config: LightGcnConfig) -> None:
        super().__init__()
        if items.width != config.width:
            raise InputError(f"lightgcn width {config.width}: the item table has {items.width}")
        if items.n_items != user_item.shape[1]:
            raise InputError(f"lightgcn: {items.n_items} items in the table, {user_item.shape[1]} in the graph")
        self.items, self.config, self.n_items = items, config, items.n_items
        self.users = nn.Embedding(user_item.shape[0], config.width)
        nn.init.normal_(self.users.weight, std=0.02)
        self.graph = normalised(user_item)
        # An item without an edge has degree 1 for those who ask about it.
        degrees = np.maximum(np.asarray(user_item.sum(axis=0)), 1)
        self._history_weights = torch.from_numpy(degrees**-0.5).float()

    @property
    def item_vectors(self) -> Tensor:
        """z of the items [N, D]."""
        return self.propagate(self.items())[1]

    def forward(self) -> tuple[Tensor, Tensor]:
        """z of the users [U, D] and of the items [N, D]."""
        users, items, _ = self.propagate(self.items())
        return users, items

    def propagate(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spread layer 0 of the items [N, D] and the users' own.

        Returns:
            z of the users [U, D], z of the items [N, D], and the sum of the items' layers 0..L-1 [N, D], which is what
            a user reads of them.
        """
        users = self.users.weight
        user_sum, item_sum, read = users, items, items
        for layer in range(self.config.layers):
            users, items = _Product.apply(self.graph, items), _Product.apply(self.graph.T, users)
            user_sum, item_sum = user_sum + users, item_sum + items
            read = read + items if layer + 1 < self.config.layers else read
        layers = self.config.layers + 1
        return user_sum / layers, item_sum / layers, read

    @torch.inference_mode()
    def frozen_vectors(self, cold: ColdItems | None = None) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
        """What a trained model reads and ranks with, [N, D] each, and the items that it can rank, bool [N].

        A cold item has no edge; its layer 0 comes from its words, and where the table knows none, it cannot be ranked.
        """
        known = np.ones(self.n_items, dtype=np.bool_)
        with evaluating(self):
            first = self.items()
            if cold is not None and len(cold.rows):
                if type(self.items).from_text is ItemTable.from_text:
                    known[cold.rows] = False
                else:
                    said = self.items.from_text(torch.from_numpy(cold.text))
                    first = first.index_copy(0, torch.from_numpy(cold.rows), said)
            _, ranked, read = self.propagate(first)
        return read * self._history_weights[:, None] / (self.config.layers + 1), ranked, known

    def ranking_vectors(self, cold: ColdItems | None = None) -> NDArray[np.float32]:
        """The vectors float32 [N, D] that a trained model ranks with, cold items by their words."""
        return self.frozen_vectors(cold)[1].numpy().copy()

    def scorer(self, cold: ColdItems | None = None) -> Scorer:
        """A function from histories to scores float32 [B, N] by the present weights; the graph is read once.

        An empty history scores every item 0; an item that cannot be ranked has -inf.
        """
        read, rank, known = self.frozen_vectors(cold)

        def score(histories: Sequences) -> Scores:
            held = user_item_matrix(histories, self.n_items)
            users = held @ read.numpy() / np.sqrt(np.maximum(held.sum(axis=1), 1))[:, None]
            scores: Scores = (users @ rank.numpy().T).astype(np.float32, copy=False)
            scores[:, ~known] = -np.inf
            return scores

        return score

    def score(self, histories: Sequences) -> Scores:
        """Scores float32 [B, N] of the next item; an empty history scores every item 0."""
        return self.scorer()(histories)

    def save(self, folder: Path) -> None:
        """Write `lightgcn.safetensors` and `lightgcn.json`; the graph is not in them."""
        save_file(self.state_dict(), folder / "lightgcn.safetensors")
        write_atomic(folder / "lightgcn.json", to_json({"n_items": self.n_items, **asdict(self.config)}))

    def load_weights(self, folder: Path) -> None:
        """Take over the weights that `save` wrote, into a model of the same parts.

        Raises:
            InputError: no such file, or weights of other parts.
        """
        spec = state_spec(self)
        self.load_state_dict(read_tensors(folder / "lightgcn.safetensors", spec, "weights of this lightgcn"))
        self.eval()


def user_item_matrix(histories: Sequences, n_items: int) -> csr_array:
    """The matrix [B, N] with 1 where a history has an item."""
    people = np.repeat(np.arange(len(histories)), histories.lengths)
    ones = np.ones(len(people), dtype=np.float32)
    user_item = csr_array((ones, (people, histories.values)), shape=(len(histories), n_items))
    user_item.sum_duplicates()
    user_item.data[:] = 1.0
    return user_item


def normalised(user_item: csr_array) -> csr_array:
    """D_u^(-1/2) R D_i^(-1/2) (equation 3); rows and columns without an edge stay empty."""
    coordinates = user_item.tocoo()
    per_user, per_item = np.asarray(user_item.sum(axis=1)), np.asarray(user_item.sum(axis=0))
    values = coordinates.data / np.sqrt(per_user[coordinates.row] * per_item[coordinates.col])
    return csr_array((values.astype(np.float32), (coordinates.row, coordinates.col)), shape=user_item.shape)


class _Product(torch.autograd.Function):
    """A constant sparse matrix [R, C] times a dense [C, D]; the gradient goes back through the transpose."""

    @staticmethod
    def forward(ctx: Any, matrix: csr_array, dense: Tensor) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(matrix @ dense.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, torch.from_numpy(ctx.matrix.T @ grads[0].numpy())
