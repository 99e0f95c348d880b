"""Entropic optimal transport with even shares, in the log domain.

Shapes: B rows, V columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinkhorn(costs: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Log of the transport plan [B, V] between B rows of mass 1/B and V columns of mass 1/V.

    The plan is diag(u) exp(-C / epsilon) diag(v), with log u and log v found by alternating updates (Cuturi 2013,
    arXiv 1306.0895, algorithm 1), columns last: each column's mass is exactly 1/V. Logarithms stay finite at an epsilon
    for which exp(-C / epsilon) is 0 in floating point.
    """
    kernel = -costs / epsilon
    rows, columns = costs.shape
    log_v = torch.zeros(columns, dtype=costs.dtype, device=costs.device)
    for _ in range(iterations):
        log_u = -math.log(rows) - torch.logsumexp(kernel + log_v, dim=1)
        log_v = -math.log(columns) - torch.logsumexp(kernel + log_u[:, None], dim=0)
    return kernel + log_u[:, None] + log_v
