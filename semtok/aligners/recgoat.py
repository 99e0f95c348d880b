"""RecGOAT: words spread over a graph of like items, behaviour spread over who took what, the two aligned on two levels
and summed (Li et al. 2026, arXiv 2602.00682).

    m = Attention(item graph, A p)                          words p of an item and of its neighbours
    u = Attention(user graph, B q)                          words q of a user's preferences, and of like users'
    z = mean of layers 0..L of LightGCN(user-item graph) started from ID vectors and u
    e = LayerNorm( (1 - b) z + b transport(m) ),   loss = w_c InfoNCE(z, m) + w_t S(z, m)

LightGCN is He et al. 2020 (arXiv 2002.02126, equations 3 and 4), InfoNCE runs in both directions between the two sides
of an item, `transport` is a map of features or, where the distance S between samples does its work, nothing.

Unlike the released code: InfoNCE is minimised, not maximised; transport keeps its mass (see `aligners.transport`); the
user-user graph and users' words, which exist there as options only, are used; there are no images; lengths are left to
the recommender, since a softmax over the catalogue needs them. Of items that nobody has taken the paper is silent: here
such an item borrows its behaviour from those of like words, because the model learns to believe behaviour far more than
words (b falls to 0.05 on Amazon's Scientific) and never lists what has only words.

Shapes: N items, U users, D_t width of the text, D width of the table, M rows of a batch.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array, hstack
from torch import Tensor, nn
from torch.nn import functional

from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.aligners.config import RecGoatConfig
from genrec.semtok.aligners.graph_attention import Edges, GraphAttention, propagate, propagate_back
from genrec.semtok.aligners.graphs import bipartite, nearest, neighbour_graph, shuffled
from genrec.semtok.aligners.losses import symmetric_contrast
from genrec.semtok.aligners.principal_axes import Floats, principal_axes
from genrec.semtok.aligners.transport import FeatureMap, relative_epsilon, sinkhorn_divergence
from genrec.semtok.dropout import dropout
from genrec.semtok.errors import InputError


class Sides(NamedTuple):
    """The two sides of every item [N, D], before transport and fusion."""

    words: Tensor
    behaviour: Tensor


class Users(nn.Module):
    """Where users start in the user-item graph: [U, D].

    Args:
        inputs: with `user_text`, unless `user_start` is free and `user_graph` none.
        width: D.

    Raises:
        InputError: `user_text` is missing.
    """

    text: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: RecGoatConfig) -> None:
        super().__init__()
        if inputs.user_text is None and (config.user_start == "text" or config.user_graph != "none"):
            raise InputError(
                "recgoat: no vectors of the users' preference texts; without them, set --aligner.recgoat.user_start "
                "free and --aligner.recgoat.user_graph none"
            )
        self.start: nn.Linear | nn.Parameter
        if config.user_start == "text" and inputs.user_text is not None:
            mean, scale = _mean_and_scale(inputs.user_text)
            self.register_buffer("text", torch.from_numpy((inputs.user_text - mean) / scale), persistent=False)
            self.start = nn.Linear(self.text.shape[1], width)
        else:
            self.start = nn.Parameter(config.id_scale * torch.randn(inputs.taken.shape[0], width))
        self.edges = self.attention = None
        if config.user_graph != "none" and inputs.user_text is not None:
            graph = neighbour_graph(inputs.user_text, config.user_neighbours)
            self.edges = Edges(shuffled(graph, config.graph_seed) if config.user_graph == "shuffled" else graph)
            self.attention = GraphAttention(width, config.heads, config.dropout)

    def forward(self) -> Tensor:
        start: Tensor = self.start(self.text) if isinstance(self.start, nn.Linear) else self.start
        return start if self.attention is None else self.attention(self.edges, start)


class RecGoatTable(ItemTable):
    """The table; items that nobody has taken have their words, and the behaviour of items with like words.

    A pass over the graphs is kept until its gradient is taken or a weight changes, so that `forward` and `loss` of one
    training step share it.
    """

    text: Tensor
    text_mean: Tensor
    text_scale: Tensor
    known: Tensor

    def __init__(self, inputs: AlignerInputs, width: int, config: RecGoatConfig) -> None:
        super().__init__()
        self.n_items, self.width, self.config = len(inputs.text), width, config
        mean, scale = _mean_and_scale(inputs.text)
        known = inputs.counts > 0
        self.register_buffer("text_mean", torch.from_numpy(mean))
        self.register_buffer("text_scale", torch.tensor(scale))
        self.register_buffer("text", torch.from_numpy(inputs.text), persistent=False)
        self.register_buffer("known", torch.from_numpy(known), persistent=False)
        self.items = nn.Embedding(self.n_items, width)
        nn.init.normal_(self.items.weight, std=config.id_scale)
        if config.id_start == "collaborative" and known.any():
            rows = _components(inputs.collaborative[known], width, config.id_scale)
            with torch.no_grad():
                self.items.weight[self.known] = torch.from_numpy(rows)
        self.text_in = nn.Linear(inputs.text.shape[1], width)
        self.item_edges = self.item_attention = None
        if config.item_graph != "none":
            graph = neighbour_graph(inputs.text, config.item_neighbours)
            self.item_edges = Edges(shuffled(graph, config.graph_seed) if config.item_graph == "shuffled" else graph)
            self.item_attention = GraphAttention(width, config.heads, config.dropout)
        self.taken_edges = self.users = None
        if config.user_item_graph != "none":
            graph = bipartite(inputs.taken)
            if config.user_item_graph == "shuffled":
                graph = shuffled(graph, config.graph_seed, two_sided=True)
            self.taken_edges, self.users = Edges(graph), Users(inputs, width, config)
        self.map = FeatureMap(width, config.epsilon, config.iterations) if config.transport == "map" else None
        self.share = nn.Parameter(torch.tensor(config.text_share))
        self.norm = nn.LayerNorm(width)
        # Vectors of unit length, as the released code scales them; LayerNorm's own sqrt(D) would start a softmax over
        # the whole catalogue from logits in the tens.
        nn.init.constant_(self.norm.weight, width**-0.5)
        self._kept: tuple[list[tuple[int, int]], Sides] | None = None

    def train(self, mode: bool = True) -> Self:
        self._kept = None
        return super().train(mode)

    def forward(self) -> Tensor:
        words, behaviour = self._sides()
        mixed = self.share * self._moved(words) + (1 - self.share) * behaviour * self.known[:, None]
        vectors: Tensor = dropout(self.norm(mixed), self.config.dropout, self.training)
        return vectors

    def loss(self, rows: Tensor, epoch: float) -> Tensor:
        config = self.config
        drawn = torch.randint(self.n_items, (round(config.drawn_items * len(rows)),), device=rows.device)
        rows = torch.cat([rows, drawn])
        rows = rows[self.known[rows]]  # a cold item has no behaviour
        total = self.share.new_zeros(())
        if not len(rows):
            return total
        words, behaviour = self._sides()
        if config.contrast:
            contrast = symmetric_contrast(words[rows], behaviour[rows], rows, config.temperature)
            total = total + config.contrast * contrast
        if config.transport == "divergence" and config.transport_weight:
            sample = rows[torch.randperm(len(rows), device=rows.device)[: config.transport_rows]]
            x, y = (functional.normalize(side[sample], dim=-1) for side in (words, behaviour))
            epsilon = relative_epsilon(x, y, config.epsilon)
            total = total + config.transport_weight * sinkhorn_divergence(x, y, epsilon, config.iterations)
        return total

    def from_text(self, text: Tensor) -> Tensor:
        if text.shape[1] != self.text.shape[1]:
            raise InputError(f"recgoat: text vectors of width {text.shape[1]}, fitted on width {self.text.shape[1]}")
        words = self._projected(text)
        if self.item_attention is not None and len(text):
            ours, theirs = self.text.cpu().numpy(), text.cpu().numpy()
            graph = nearest(theirs, ours, self.config.item_neighbours)
            if self.config.item_graph == "shuffled":
                graph = shuffled(graph, self.config.graph_seed, two_sided=True)
            loops = eye_array(len(theirs), dtype=np.float32)
            edges = Edges(csr_array(hstack([graph, loops]))).to(text.device)
            heard = torch.cat([self._projected(self.text), words])
            words = self.item_attention(edges, heard, words)
        mixed = self.share * self._moved(words) + (1 - self.share) * self._borrowed(text)
        vectors: Tensor = self.norm(mixed)
        return vectors

    def _borrowed(self, text: Tensor) -> Tensor:
        """The mean behaviour [M, D] of the known items nearest to words [M, D_t]."""
        behaviour = self._sides().behaviour[self.known]
        if not (self.config.cold_neighbours and len(behaviour) and len(text)):
            return text.new_zeros(len(text), self.width)
        theirs, ours = text.cpu().numpy(), self.text[self.known].cpu().numpy()
        graph = nearest(theirs, ours, self.config.cold_neighbours)
        shares = graph.data / np.repeat(graph.sum(axis=1).clip(1), np.diff(graph.indptr))
        edges = Edges(csr_array((shares, graph.indices, graph.indptr), shape=graph.shape)).to(text.device)
        return propagate(edges, behaviour)

    def _sides(self) -> Sides:
        if not (self.training and torch.is_grad_enabled()):
            return self._propagated()
        versions = [(id(parameter), parameter._version) for parameter in self.parameters()]
        if self._kept is None or self._kept[0] != versions:
            sides = self._propagated()
            if self.map is not None:
                self.map.update(sides.words[self.known], sides.behaviour[self.known])
            for side in sides:
                side.register_hook(self._forget)
            self._kept = (versions, sides)
        return self._kept[1]

    def _forget(self, grad: Tensor) -> None:
        self._kept = None  # the pass behind it is freed with its gradient

    def _propagated(self) -> Sides:
        words = self._projected(self.text)
        if self.item_attention is not None:
            words = self.item_attention(self.item_edges, words)
        behaviour = self.items.weight * self.known[:, None]
        if self.users is not None and self.taken_edges is not None:
            items, users = behaviour, self.users()
            for _ in range(self.config.layers):
                items, users = propagate_back(self.taken_edges, users), propagate(self.taken_edges, items)
                behaviour = behaviour + items
            behaviour = behaviour / (self.config.layers + 1)
        return Sides(words, behaviour)

    def _projected(self, text: Tensor) -> Tensor:
        projected: Tensor = self.text_in((text - self.text_mean) / self.text_scale)
        return projected

    def _moved(self, words: Tensor) -> Tensor:
        moved: Tensor = words if self.map is None else self.map(words)
        return moved


def _mean_and_scale(text: Floats) -> tuple[Floats, np.float32]:
    """Mean [D_t], and the root mean square of what is left: unit rows have entries far too small for a layer. Of rows
    that are all alike nothing is left, and 1 keeps other rows in bounds."""
    mean: Floats = text.mean(axis=0)
    return mean, np.sqrt(np.square(text - mean).mean()) or np.float32(1)


def _components(vectors: Floats, width: int, scale: float) -> Floats:
    """The `width` main components of the rows, with entries of root mean square `scale`; missing columns are 0."""
    mean, axes = principal_axes(vectors, width)
    components = (vectors - mean) @ axes
    components *= scale / np.sqrt(np.square(components).mean()).clip(1e-12)
    return np.pad(components.astype(np.float32), ((0, 0), (0, width - components.shape[1])))
