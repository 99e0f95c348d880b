"""Attention over the neighbours of a graph, and propagation along fixed weights, without a graph library.

Graphs are CSR patterns; the sums over neighbours are sparse matrix products, which never hold a vector an edge. On a
CPU that is an order of magnitude faster than gathering and adding such vectors.

Shapes: N target nodes, M source nodes, E edges, H heads, C width of a head, D = H * C.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.semtok.dropout import dropout
from genrec.semtok.errors import InputError

# torch says once a process that its CSR tensors are young; nothing that a user of the aligner could act upon.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)

_SLOPE = 0.2  # of LeakyReLU below 0


class Edges(nn.Module):
    """Which targets receive from which sources: the pattern of a CSR matrix [N, M] and of its transpose, moved between
    devices with its owner.

    Not part of the owner's weights: a graph is made again from what it was made from.

    Args:
        graph: [N, M]; its values are kept in `weights`.
    """

    starts: Tensor  # [N + 1]
    source: Tensor  # [E], column of each edge
    target: Tensor  # [E], row of each edge
    back_starts: Tensor  # [M + 1], of the transpose
    back_heard: Tensor  # [E], column of each edge of the transpose
    back: Tensor  # [E], where each edge of the transpose stands among the edges
    weights: Tensor  # [E]

    def __init__(self, graph: csr_array) -> None:
        super().__init__()
        graph = graph.tocsr()
        graph.sort_indices()
        self.shape: tuple[int, int] = graph.shape
        numbered = csr_array((np.arange(graph.nnz), graph.indices, graph.indptr), shape=graph.shape).T.tocsr()
        numbered.sort_indices()
        arrays = {
            "starts": graph.indptr,
            "source": graph.indices,
            "target": np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)),
            "back_starts": numbered.indptr,
            "back_heard": numbered.indices,
            "back": numbered.data,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array.astype(np.int32)), persistent=False)
        self.register_buffer("weights", torch.from_numpy(graph.data.astype(np.float32)), persistent=False)

    def product(self, values: Tensor, source: Tensor) -> Tensor:
        """[N, H, C]: every target's sum of what it receives, for values [E, H] and vectors [M, H, C]."""
        return _product(self.starts, self.source, values, source, self.shape)

    def back_product(self, values: Tensor, targets: Tensor) -> Tensor:
        """[M, H, C]: the transposed product, for values [E, H] and vectors [N, H, C]."""
        turned = values.index_select(0, self.back)
        return _product(self.back_starts, self.back_heard, turned, targets, self.shape[::-1])

    def inner_products(self, targets: Tensor, source: Tensor) -> Tensor:
        """[E, H]: of the vectors [N, H, C] and [M, H, C] at the two ends of every edge."""
        empty = _csr(self.starts, self.source, targets.new_zeros(len(self.source)), self.shape)
        pairs = zip(_heads_first(targets), _heads_first(source), strict=True)
        return torch.stack([torch.sparse.sampled_addmm(empty, x, y.T, beta=0.0).values() for x, y in pairs], dim=1)

    def at_hearers(self, values: Tensor) -> Tensor:
        """[E, H] for values [N, H] of the targets."""
        return values.index_select(0, self.target)

    def at_heard(self, values: Tensor) -> Tensor:
        """[E, H] for values [M, H] of the sources."""
        return values.index_select(0, self.source)

    def row_sums(self, values: Tensor) -> Tensor:
        """[N, H] sums over each target's edges of values [E, H]."""
        return torch.segment_reduce(values, "sum", lengths=self.starts.diff(), axis=0)

    def row_maxima(self, values: Tensor) -> Tensor:
        """[N, H] maxima over each target's edges of values [E, H]."""
        return torch.segment_reduce(values, "max", lengths=self.starts.diff(), axis=0)

    def column_sums(self, values: Tensor) -> Tensor:
        """[M, H] sums over each source's edges of values [E, H]."""
        turned = values.index_select(0, self.back)
        return torch.segment_reduce(turned, "sum", lengths=self.back_starts.diff(), axis=0)


def propagate(edges: Edges, source: Tensor) -> Tensor:
    """[N, D]: every target's weighted sum of the sources' vectors [M, D], by the graph's own weights."""
    return _Propagate.apply(edges, source, False)


def propagate_back(edges: Edges, targets: Tensor) -> Tensor:
    """[M, D]: the same along the transposed graph, for vectors [N, D]."""
    return _Propagate.apply(edges, targets, True)


class GraphAttention(nn.Module):
    """A graph attention layer (Velickovic et al. 2018, equations 1 to 5, heads concatenated).

    With h_j = W x_j and per head a_1, a_2: score_ij = LeakyReLU(a_1^T h_i + a_2^T h_j), weights = softmax over the
    neighbours j of i, output_i = sum_j weights_ij h_j + bias. A node without neighbours gets the bias.

    Args:
        width: D, of input and output.
        heads: H, dividing D.
        dropout: on the inputs and on the attention weights, where an edge is dropped for all heads at once.

    Raises:
        InputError: H does not divide D.
    """

    def __init__(self, width: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"{heads} attention heads do not divide the width {width}")
        self.heads, self.dropout = heads, dropout
        self.linear = nn.Linear(width, width, bias=False)
        self.to_target = nn.Parameter(torch.empty(heads, width // heads))  # a_1
        self.to_source = nn.Parameter(torch.empty(heads, width // heads))  # a_2
        self.bias = nn.Parameter(torch.zeros(width))
        for weight in (self.linear.weight, self.to_target, self.to_source):
            nn.init.xavier_normal_(weight)

    def forward(self, edges: Edges, x: Tensor, targets: Tensor | None = None) -> Tensor:
        """Vectors [N, D] of the target nodes.

        Args:
            x: [M, D], the source nodes.
            targets: [N, D] where the targets are other nodes; by default the same.
        """
        source = self._heads(x)
        own = source if targets is None else self._heads(targets)
        kept = None
        if self.training and self.dropout:
            kept = dropout(source.new_ones(len(edges.source), 1), self.dropout)
        scores = (own * self.to_target).sum(-1), (source * self.to_source).sum(-1)
        attended: Tensor = _Attend.apply(edges, source, *scores, kept)
        return attended.flatten(1) + self.bias

    def _heads(self, x: Tensor) -> Tensor:
        h: Tensor = self.linear(dropout(x, self.dropout, self.training))
        return h.unflatten(1, self.to_source.shape)


class _Propagate(torch.autograd.Function):
    """A sparse product with constant values; its gradient is the product with the transpose."""

    @staticmethod
    def forward(ctx: Any, edges: Edges, x: Tensor, back: bool) -> Tensor:
        ctx.edges, ctx.back = edges, back
        return _propagated(edges, x, back)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, _propagated(ctx.edges, grads[0], not ctx.back), None


def _propagated(edges: Edges, x: Tensor, back: bool) -> Tensor:
    product = edges.back_product if back else edges.product
    return product(edges.weights.to(x.dtype)[:, None], x[:, None]).squeeze(1)


class _Attend(torch.autograd.Function):
    """Softmax over neighbours and weighted sum: vectors [M, H, C], scores [N, H] and [M, H] -> [N, H, C].

    Written out, because autograd would keep and scatter a vector of width C for every edge and head.
    """

    @staticmethod
    def forward(
        ctx: Any, edges: Edges, source: Tensor, own_score: Tensor, from_score: Tensor, kept: Tensor | None
    ) -> Tensor:
        raw = edges.at_hearers(own_score).add_(edges.at_heard(from_score))  # [E, H]
        weights = F.leaky_relu(raw, _SLOPE)
        weights = weights.sub_(edges.at_hearers(edges.row_maxima(weights))).exp_()
        weights /= edges.at_hearers(edges.row_sums(weights))
        ctx.edges = edges
        ctx.save_for_backward(source, raw, weights, kept)
        return edges.product(weights if kept is None else weights * kept, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        edges, (source, raw, weights, kept) = ctx.edges, ctx.saved_tensors
        grad_heard = edges.back_product(weights if kept is None else weights * kept, grads[0])
        grad = edges.inner_products(grads[0], source)
        if kept is not None:
            grad *= kept
        # Softmax: dL/ds = w (dL/dw - sum_j w_j dL/dw_j); then LeakyReLU, whose slope is 1 or the lower one.
        grad *= weights
        grad -= edges.at_hearers(edges.row_sums(grad)).mul_(weights)
        grad *= (raw > 0).to(grad.dtype).mul_(1 - _SLOPE).add_(_SLOPE)
        return None, grad_heard, edges.row_sums(grad), edges.column_sums(grad), None


def _product(starts: Tensor, columns: Tensor, values: Tensor, vectors: Tensor, shape: tuple[int, int]) -> Tensor:
    """Head by head: values [E, H] on the pattern, times vectors [., H, C]."""
    pairs = zip(values.T.contiguous(), _heads_first(vectors), strict=True)
    return torch.stack([_csr(starts, columns, value, shape) @ vector for value, vector in pairs], dim=1)


def _heads_first(vectors: Tensor) -> Tensor:
    return vectors.transpose(0, 1).contiguous()


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
