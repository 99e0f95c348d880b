"""RecGOAT: text spread over a graph of like items, interactions spread over the user-item graph, the two aligned on two
levels and summed (Li et al. 2026, arXiv 2602.00682).

    m = Attention(item graph, A p)                          text p of an item and of its neighbours
    u = Attention(user graph, B q)                          text q of a user's preferences, and of like users'
    z = mean of layers 0..L of LightGCN(user-item graph) started from ID vectors and u
    e = LayerNorm( (1 - b) z + b transport(m) ),   loss = w_c InfoNCE(z, m)

LightGCN is He et al. 2020 (arXiv 2002.02126, equations 3 and 4), InfoNCE runs in both directions between the two
modalities of an item, `transport` is a map of features.

Unlike the released code: InfoNCE is minimised, not maximised; transport keeps its mass (see `aligners.transport`); the
user-user graph and users' texts, which exist there as options only, are used; there are no images; lengths are left to
the recommender, since a softmax over the catalogue needs them. Of cold-start items the paper is silent: here such an
item borrows the collaborative vectors of those with like text, because the model learns to weigh interactions far more
than text (b falls to 0.05 on Amazon's Scientific) and never lists what has only text.

Shapes: N items, U users, D_t width of the text, D width of the table, M rows of a batch.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array, hstack
from torch import Tensor, nn

from genrec.semtok.aligners.base import AlignerInputs, TextReadingTable
from genrec.semtok.aligners.config import RecGoatConfig
from genrec.semtok.aligners.graph_attention import Edges, GraphAttention, propagate, propagate_back
from genrec.semtok.aligners.graphs import bipartite, nearest, neighbour_graph
from genrec.semtok.aligners.losses import symmetric_contrast
from genrec.semtok.aligners.principal_axes import Floats, component_rows, mean_and_scale
from genrec.semtok.aligners.transport import FeatureMap
from genrec.semtok.dropout import dropout
from genrec.semtok.errors import InputError

_ID_SCALE = 0.1  # root mean square of the ID vectors' entries at the start
_SINKHORN_ITERATIONS = 30


class Modalities(NamedTuple):
    """The vectors of every item in either modality [N, D], before transport and fusion."""

    text: Tensor
    collaborative: Tensor


class UserText(nn.Module):
    """Where users start in the user-item graph: their preference texts, spread over like users. [U, D].

    Args:
        text: [U, D_t].
        width: D.
        graph: [U, U], of users with like preferences.
    """

    text: Tensor

    def __init__(self, text: Floats, width: int, config: RecGoatConfig, graph: csr_array) -> None:
        super().__init__()
        mean, scale = mean_and_scale(text)
        self.register_buffer("text", torch.from_numpy((text - mean) / scale), persistent=False)
        self.start = nn.Linear(self.text.shape[1], width)
        self.edges, self.attention = Edges(graph), GraphAttention(width, config.heads, config.dropout)

    def forward(self) -> Tensor:
        return self.attention(self.edges, self.start(self.text))


class RecGoatTable(TextReadingTable):
    """The table; cold-start items have their text, and the collaborative vectors of items with like text.

    A pass over the graphs is kept until its gradient is taken or a weight changes, so that `forward` and `loss` of one
    training step share it.

    Raises:
        InputError: `inputs.user_text` is missing.
    """

    name = "recgoat"
    text: Tensor
    known: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: RecGoatConfig) -> None:
        super().__init__(inputs, width, config)
        if inputs.user_text is None:
            raise InputError("recgoat: no vectors of the users' preference texts")
        if inputs.collaborative is None:
            raise InputError("recgoat: no collaborative vectors")
        known = inputs.counts > 0
        self.register_buffer("text", torch.from_numpy(inputs.text), persistent=False)
        self.register_buffer("known", torch.from_numpy(known), persistent=False)
        self.items = nn.Embedding(self.n_items, width)
        nn.init.normal_(self.items.weight, std=_ID_SCALE)
        if known.any():  # ID vectors start as the main components of the collaborative vectors
            rows = component_rows(inputs.collaborative[known], width, _ID_SCALE)
            with torch.no_grad():
                self.items.weight[self.known] = torch.from_numpy(rows)
        self.text_in = nn.Linear(inputs.text.shape[1], width)
        self.item_edges = Edges(neighbour_graph(inputs.text, config.item_neighbours))
        self.item_attention = GraphAttention(width, config.heads, config.dropout)
        self.user_item_edges = Edges(bipartite(inputs.user_item))
        graph = neighbour_graph(inputs.user_text, config.user_neighbours)
        self.users = UserText(inputs.user_text, width, config, graph)
        self.map = FeatureMap(width, config.epsilon, _SINKHORN_ITERATIONS)
        self.share = nn.Parameter(torch.tensor(config.text_share))
        self.norm = nn.LayerNorm(width)
        # Vectors of unit length, as the released code scales them; LayerNorm's own sqrt(D) would start a softmax over
        # the whole catalogue from logits in the tens.
        nn.init.constant_(self.norm.weight, width**-0.5)
        self._kept: tuple[list[tuple[int, int]], Modalities] | None = None

    def train(self, mode: bool = True) -> Self:
        self._kept = None
        return super().train(mode)

    def forward(self) -> Tensor:
        text, collaborative = self._modalities()
        mixed = self.share * self.map(text) + (1 - self.share) * collaborative * self.known[:, None]
        return dropout(self.norm(mixed), self.config.dropout, self.training)

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        config = self.config
        drawn = torch.randint(self.n_items, (round(config.drawn_items * len(rows)),), device=rows.device)
        rows = torch.cat([rows, drawn])
        rows = rows[self.known[rows]]  # a cold-start item has no interactions
        if not config.contrast or not len(rows):
            return self.share.new_zeros(())
        text, collaborative = self._modalities()
        return config.contrast * symmetric_contrast(text[rows], collaborative[rows], rows, config.temperature)

    def from_text(self, text: Tensor) -> Tensor:
        own = self.text_in(self.standardised(text))
        if len(text):
            ours, theirs = self.text.cpu().numpy(), text.cpu().numpy()
            graph = nearest(theirs, ours, self.config.item_neighbours)
            loops = eye_array(len(theirs), dtype=np.float32)
            edges = Edges(csr_array(hstack([graph, loops]))).to(text.device)
            read = torch.cat([self.text_in(self.standard), own])
            own = self.item_attention(edges, read, own)
        mixed = self.share * self.map(own) + (1 - self.share) * self._borrowed(text)
        return self.norm(mixed)

    def _borrowed(self, text: Tensor) -> Tensor:
        """The mean collaborative vector [M, D] of the known items with text nearest to [M, D_t]."""
        collaborative = self._modalities().collaborative[self.known]
        if not (self.config.cold_neighbours and len(collaborative) and len(text)):
            return text.new_zeros(len(text), self.width)
        theirs, ours = text.cpu().numpy(), self.text[self.known].cpu().numpy()
        graph = nearest(theirs, ours, self.config.cold_neighbours)
        weights = graph.data / np.repeat(graph.sum(axis=1).clip(1), np.diff(graph.indptr))
        edges = Edges(csr_array((weights, graph.indices, graph.indptr), shape=graph.shape)).to(text.device)
        return propagate(edges, collaborative)

    def _modalities(self) -> Modalities:
        if not (self.training and torch.is_grad_enabled()):
            return self._propagated()
        versions = [(id(parameter), parameter._version) for parameter in self.parameters()]
        if self._kept is None or self._kept[0] != versions:
            both = self._propagated()
            self.map.update(both.text[self.known], both.collaborative[self.known])
            for vectors in both:
                vectors.register_hook(self._forget)
            self._kept = (versions, both)
        return self._kept[1]

    def _forget(self, grad: Tensor) -> None:
        self._kept = None  # the pass behind it is freed with its gradient

    def _propagated(self) -> Modalities:
        text = self.item_attention(self.item_edges, self.text_in(self.standard))
        collaborative = items = self.items.weight * self.known[:, None]
        edges, users = self.user_item_edges, self.users()
        for _ in range(self.config.layers):
            items, users = propagate_back(edges, users), propagate(edges, items)
            collaborative = collaborative + items
        return Modalities(text, collaborative / (self.config.layers + 1))
