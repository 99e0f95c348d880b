"""Graphs against brute force, and against worlds small enough to draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from genrec.semtok.aligners import graphs
from genrec.semtok.aligners.graphs import bipartite, nearest, neighbour_graph
from genrec.semtok.errors import InputError


def brute_force(vectors: np.ndarray, k: int) -> np.ndarray:
    """Dense 0/1 graph by sorting every row by (-cosine, column)."""
    norms = np.linalg.norm(vectors, axis=1)
    graph = np.eye(len(vectors))
    for i in range(len(vectors)):
        cosines = {
            j: round(float(vectors[i] @ vectors[j] / (norms[i] * norms[j])), 6) if norms[i] * norms[j] else 0.0
            for j in range(len(vectors))
            if j != i
        }
        for j in sorted(cosines, key=lambda j: (-cosines[j], j))[:k]:
            if cosines[j] > 0:
                graph[i, j] = graph[j, i] = 1
    return graph


@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 1000), st.booleans())
def test_neighbour_graph_is_what_sorting_every_row_gives(n: int, k: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    # Axis-parallel and diagonal vectors: many exact ties, some rows of zeros. Otherwise none.
    vectors = rng.integers(-1, 2, (n, 2)) if ties else rng.standard_normal((n, 4))
    graph = neighbour_graph(vectors.astype(np.float32), k)
    np.testing.assert_array_equal(graph.toarray(), brute_force(vectors.astype(np.float64), k))
    assert graph.dtype == np.float32
    assert graph.has_canonical_format


def test_blocks_do_not_change_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((70, 8)).astype(np.float32)
    vectors[40:60] = vectors[3]  # twins, more of them than neighbours
    whole = neighbour_graph(vectors, 5)
    monkeypatch.setattr(graphs, "_BLOCK_FLOATS", 7 * 70)
    np.testing.assert_array_equal(neighbour_graph(vectors, 5).toarray(), whole.toarray())


def test_nearest_of_other_vectors() -> None:
    keys = np.array([[1, 0], [0, 1], [1, 1], [-1, 0]], dtype=np.float32)
    queries = np.array([[2, 0.1], [0, 0]], dtype=np.float32)
    assert nearest(queries, keys, 2).toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    with pytest.raises(InputError, match="neighbours 0"):
        nearest(queries, keys, 0)


def test_bipartite_block_of_a_world_of_three_users() -> None:
    taken = csr_array(np.array([[2, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))  # taken twice is taken
    expected = [[1 / 2, 1 / np.sqrt(2), 0, 0], [1 / np.sqrt(2), 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(bipartite(taken).toarray(), expected, rtol=1e-6)
    assert taken.toarray()[0, 0] == 2


def test_bipartite_is_the_block_of_the_whole_normalised_matrix() -> None:
    rng = np.random.default_rng(1)
    taken = (rng.random((6, 9)) < 0.3).astype(np.float64)
    whole = np.block([[np.zeros((6, 6)), taken], [taken.T, np.zeros((9, 9))]])
    degrees = whole.sum(axis=1)
    root = np.divide(1, np.sqrt(degrees), out=np.zeros(15), where=degrees > 0)
    expected = (root[:, None] * whole * root)[:6, 6:]
    np.testing.assert_allclose(bipartite(csr_array(taken)).toarray(), expected, rtol=1e-6)
