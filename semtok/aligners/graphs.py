"""Graphs over items and users: nearest neighbours by cosine, and user-item edges.

Row i of a graph lists the neighbours that node i receives from. Everything works block by block: no matrix of all
pairs is ever held.

Shapes: N nodes, D width, U users, b rows of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array

from genrec.semtok.errors import InputError
from genrec.semtok.vectors import unit_rows

_BLOCK_FLOATS = 32 << 20  # similarities held at once: 128 MB


def nearest(queries: NDArray[np.float32], keys: NDArray[np.float32], k: int) -> csr_array:
    """The at most `k` keys of highest cosine for every query: ones in [M, N].

    A key counts only where its cosine is above 0, so a row of zeros (a text without a known word) has no neighbours.
    Equal cosines go to the lower row.

    Args:
        queries: [M, D].
        keys: [N, D].

    Raises:
        InputError: k below 1.
    """
    if k < 1:
        raise InputError(f"neighbours {k} must be at least 1")
    units, targets = unit_rows(queries), unit_rows(keys)
    k, step = min(k, len(keys)), max(1, _BLOCK_FLOATS // max(1, len(keys)))
    pattern = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(units), step):
        # Rounded, because a matrix product gives equal pairs last bits that depend on their place in the block.
        cosines = np.round(units[start : start + step] @ targets.T, 6)
        chosen = _best(cosines, k) & (cosines > 0)
        pattern.append(np.argwhere(chosen) + np.array([start, 0]))
    rows, columns = np.concatenate(pattern).T
    return csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(queries), len(keys)))


def nearest_others(vectors: NDArray[np.float32], k: int) -> csr_array:
    """The at most `k` other rows of highest cosine for every row, see `nearest`: ones in [N, N].

    Args:
        vectors: [N, D].
    """
    chosen = nearest(vectors, vectors, k + 1).tocoo()
    others = chosen.row != chosen.col
    rows, columns = chosen.row[others], chosen.col[others]
    # Itself is among its k + 1 nearest unless k + 1 equal vectors stand before it: then the last one is too many.
    ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
    rows, columns = rows[ranks < k], columns[ranks < k]
    return csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=chosen.shape)


def neighbour_graph(vectors: NDArray[np.float32], k: int) -> csr_array:
    """Symmetric graph of the `k` nearest neighbours by cosine, with self-loops, every pair once: ones in [N, N].

    RecGOAT's item-item and user-user graphs (Li et al. 2026, arXiv 2602.00682): the diagonal is set aside while
    neighbours are chosen, two nodes are joined if either chose the other, then every node is its own neighbour.

    Args:
        vectors: [N, D].
    """
    one_way = nearest_others(vectors, k)
    graph = one_way.maximum(one_way.T).maximum(eye_array(len(vectors), dtype=np.float32, format="csr"))
    return _canonical(graph)


def bipartite(taken: csr_array) -> csr_array:
    """Users and the items they took, symmetrically normalised: float32 [U, N].

    The upper right block of D^-1/2 A D^-1/2 for A = [[0, R], [R^T, 0]] with R binary (He et al. 2020, LightGCN,
    equation 3): entry (u, i) is 1 / sqrt(items of u * users of i). The block and its transpose are all there is.
    """
    once = _canonical(csr_array(taken, dtype=np.float32, copy=True))
    once.data[:] = 1
    left, right = (_inverse_root(np.asarray(once.sum(axis=axis))) for axis in (1, 0))
    return _canonical(csr_array(diags_array(left) @ once @ diags_array(right), dtype=np.float32))


def _best(cosines: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Mask [b, N] of the k largest of each row, ties to the lower column."""
    kth = np.partition(cosines, -k, axis=1)[:, -k, None]
    mask: NDArray[np.bool_] = cosines >= kth
    extra = mask.sum(axis=1) - k
    for row in np.flatnonzero(extra):
        ties = np.flatnonzero(cosines[row] == kth[row])
        mask[row, ties[-extra[row] :]] = False
    return mask


def _inverse_root(degrees: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)


def _canonical(graph: csr_array) -> csr_array:
    graph = graph.tocsr()
    graph.sum_duplicates()
    graph.sort_indices()
    return graph
