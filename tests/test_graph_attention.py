"""Attention over neighbours against a dense masked softmax, propagation against dense products, both by gradcheck."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from torch.nn import functional as F

from genrec.semtok.aligners.graph_attention import Edges, GraphAttention, propagate, propagate_back
from genrec.semtok.errors import InputError


def random_graph(n: int, m: int, seed: int, share: float = 0.4) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array(np.where(rng.random((n, m)) < share, rng.random((n, m)), 0))


def dense(
    layer: GraphAttention, graph: csr_array, x: torch.Tensor, targets: torch.Tensor | None = None
) -> torch.Tensor:
    """The published equations over all pairs, with minus infinity where there is no edge."""
    mask = torch.from_numpy(graph.toarray() != 0)
    outputs = []
    for head in range(layer.heads):
        size = layer.to_source.shape[1]
        weight = layer.linear.weight[head * size : (head + 1) * size]
        source = x @ weight.T
        own = source if targets is None else targets @ weight.T
        scores = F.leaky_relu((own @ layer.to_target[head])[:, None] + source @ layer.to_source[head], 0.2)
        attention = scores.masked_fill(~mask, -math.inf).softmax(dim=1)
        outputs.append(attention.nan_to_num() @ source)  # a node without neighbours: 0 / 0
    return torch.cat(outputs, dim=1) + layer.bias


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(0, 1000))
def test_attention_is_a_masked_softmax(n: int, heads: int, seed: int) -> None:
    torch.manual_seed(seed)
    graph = random_graph(n, n, seed)
    layer = GraphAttention(8, heads).double().eval()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(n, 8, dtype=torch.double, requires_grad=True)
    ours, oracle = layer(Edges(graph), x), dense(layer, graph, x)
    torch.testing.assert_close(ours, oracle)
    direction = torch.randn_like(ours)
    parameters = [x, *layer.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad((ours * direction).sum(), parameters),
        torch.autograd.grad((oracle * direction).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_attention_of_other_nodes() -> None:
    torch.manual_seed(0)
    graph = random_graph(3, 7, 0)
    layer = GraphAttention(8, 2).double().eval()
    x, targets = (torch.randn(n, 8, dtype=torch.double) for n in (7, 3))
    torch.testing.assert_close(layer(Edges(graph), x, targets), dense(layer, graph, x, targets))


def test_attention_passes_gradcheck() -> None:
    torch.manual_seed(0)
    edges = Edges(random_graph(5, 6, 1))
    layer = GraphAttention(4, 2).double().eval()
    x, targets = (torch.randn(n, 4, dtype=torch.double, requires_grad=True) for n in (6, 5))

    def attend(x: torch.Tensor, targets: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in layer.named_parameters()]
        values = dict(zip(names, parameters, strict=True))
        result: torch.Tensor = torch.func.functional_call(layer, values, (edges, x, targets))
        return result

    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(attend, (x, targets, *parameters))


def test_large_scores_neither_overflow_nor_vanish() -> None:
    layer = GraphAttention(4, 1).eval()
    with torch.no_grad():
        layer.linear.weight.copy_(torch.eye(4))
        layer.to_source.fill_(1e3)
        layer.to_target.fill_(0)
    x = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, -90]])
    edges = Edges(csr_array(np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])))
    torch.testing.assert_close(layer(edges, x), torch.stack([x[1], x[2], torch.zeros(4)]))


def test_dropout_leaves_out_edges_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(4, 2, dropout=0.5)
    edges = Edges(random_graph(6, 6, 2, share=0.8))
    x = torch.randn(6, 4)
    with torch.no_grad():
        layer.to_source.zero_()  # equal attention: the output is linear in both masks
        layer.to_target.zero_()
        first, second = layer(edges, x), layer(edges, x)
        assert not torch.equal(first, second)
        mean = torch.stack([layer(edges, x) for _ in range(1000)]).mean(dim=0)
        torch.testing.assert_close(mean, layer.eval()(edges, x), atol=0.1, rtol=0)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 1000))
def test_propagation_is_the_dense_product(n: int, m: int, seed: int) -> None:
    graph = random_graph(n, m, seed)
    edges, matrix = Edges(graph), torch.from_numpy(graph.toarray()).float()
    x, y = torch.randn(m, 3), torch.randn(n, 3)
    torch.testing.assert_close(propagate(edges, x), matrix @ x)
    torch.testing.assert_close(propagate_back(edges, y), matrix.T @ y)


def test_propagation_passes_gradcheck() -> None:
    edges = Edges(random_graph(4, 6, 3))
    x, y = (torch.randn(n, 3, dtype=torch.double, requires_grad=True) for n in (6, 4))
    assert torch.autograd.gradcheck(lambda v: propagate(edges, v), (x,))
    assert torch.autograd.gradcheck(lambda v: propagate_back(edges, v), (y,))


def test_a_graph_moves_with_its_owner_and_is_no_weight() -> None:
    edges = Edges(random_graph(3, 3, 0))
    assert not edges.state_dict()
    assert edges.to("meta").source.device.type == "meta"


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match="3 attention heads do not divide the width 8"):
        GraphAttention(8, 3)
