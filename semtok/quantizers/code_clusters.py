"""Even clusters of a codebook, and for a code another one of its cluster.

Shapes: V codes, W width, K clusters, M codes of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

from genrec.semtok.quantizers.residual import Floats


def even_clusters(vectors: Floats, clusters: int, seed: int, iterations: int = 10) -> NDArray[np.int64]:
    """The cluster of each vector, int64 [V]: k-means whose every assignment is the best one with ceil(V / K) places a
    cluster (constrained k-means, Bradley, Bennett and Demiriz 2000; a linear assignment for their network flow).

    Args:
        vectors: [V, W].
        clusters: K, at most V.
        seed: of the first centres (k-means++).
    """
    centres, _ = kmeans_plusplus(vectors, clusters, random_state=seed)
    places = -(-len(vectors) // clusters)
    chosen = np.full(len(vectors), -1)
    for _ in range(iterations):
        costs = (vectors**2).sum(axis=1, keepdims=True) + (centres**2).sum(axis=1) - 2 * vectors @ centres.T
        _, columns = linear_sum_assignment(np.repeat(costs, places, axis=1))
        again = columns // places
        if np.array_equal(again, chosen):
            break
        chosen = again
        for cluster in np.unique(chosen):  # one may stay empty where there are more places than vectors
            centres[cluster] = vectors[chosen == cluster].mean(axis=0)
    return chosen


class CodeMates:
    """Draws, for a code, another of its cluster.

    Args:
        codebook: [V, W], V at least 2.
        clusters: K; fewer where a cluster would have no two codes.
        seed: of the clusters.
    """

    def __init__(self, codebook: Floats, clusters: int, seed: int) -> None:
        chosen = even_clusters(codebook, max(1, min(clusters, len(codebook) // 2)), seed)
        sizes = np.bincount(chosen)
        if 1 in sizes:  # a cluster of one is what even places may leave over: it joins the first
            chosen = np.where(sizes[chosen] == 1, np.argmax(sizes > 1), chosen)
            sizes = np.bincount(chosen)
        order = np.argsort(chosen, kind="stable")
        starts = np.cumsum(sizes) - sizes
        place = np.empty(len(chosen), dtype=np.int64)
        place[order] = np.arange(len(chosen)) - starts[chosen[order]]
        self.order, self.place = torch.from_numpy(order), torch.from_numpy(place)
        self.start, self.size = torch.from_numpy(starts[chosen]), torch.from_numpy(sizes[chosen])

    def draw(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Codes [M] to a mate each, int64 [M]; never the code itself, every other of its cluster alike."""
        size = self.size[codes]
        step = 1 + (torch.rand(len(codes), generator=generator) * (size - 1)).long()
        return self.order[self.start[codes] + (self.place[codes] + step) % size]
