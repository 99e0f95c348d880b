"""Optimal adaptive transport between the text and the collaborative space, in the log domain.

RecGOAT's second level of alignment (Li et al. 2026, arXiv 2602.00682), as the released code reads it: a map of feature
dimensions. It computes exp(-C / epsilon) in float32, which is 0 everywhere for entries as small as theirs, and leaves
its plan D times smaller than a permutation. Logarithms and a factor of D mend that.

Shapes: n items, D width, B rows and V columns of a plan.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FeatureMap(nn.Module):
    """Moves text vectors into the collaborative space: M (D T + R), R a learnable residual that starts at 0.

    T [D, D] is the entropic transport plan between the feature dimensions of the two sides with shares 1/D and costs
    C_pq = mean_i (M_ip - Z_iq)^2, found without gradient. Its entries sum to 1, so that D T is a permutation where
    every dimension has one counterpart. Epsilon is relative to the spread of C once its row and column means, which
    move no mass, are taken out: one relative to C itself would be large beside that spread and give nothing but means.

    The plan is part of the state: `update` finds it, `forward` applies it.

    Args:
        width: D.
        epsilon: in units of that spread.
        iterations: Sinkhorn updates of rows and columns.
    """

    plan: Tensor

    def __init__(self, width: int, epsilon: float = 0.1, iterations: int = 100) -> None:
        super().__init__()
        self.epsilon, self.iterations = epsilon, iterations
        self.residual = nn.Parameter(torch.zeros(width, width))
        self.register_buffer("plan", torch.eye(width))

    @torch.no_grad()
    def update(self, text: Tensor, collaborative: Tensor) -> None:
        """Find the plan for vectors [n, D] of the same n items on both sides."""
        costs = feature_costs(text, collaborative)
        centred = costs - costs.mean(dim=0) - costs.mean(dim=1, keepdim=True) + costs.mean()
        spread = float(centred.std())
        if spread > 0:  # otherwise every plan costs the same, and the last one is as good
            self.plan.copy_(sinkhorn(centred / spread, self.epsilon, self.iterations).exp() * len(costs))

    def forward(self, text: Tensor) -> Tensor:
        """Vectors [n, D] of text, moved."""
        return text @ (self.plan + self.residual)


def feature_costs(text: Tensor, collaborative: Tensor) -> Tensor:
    """Mean squared differences [D, D] between the columns of two matrices [n, D]."""
    squares = text.square().mean(dim=0)[:, None] + collaborative.square().mean(dim=0)
    return (squares - 2 * text.T @ collaborative / len(text)).clamp(min=0)


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
