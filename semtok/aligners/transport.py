"""Optimal adaptive transport between the text and the collaborative space, in the log domain.

RecGOAT's second level of alignment (Li et al. 2026, arXiv 2602.00682) can be read in two ways, and here are both:

- a map of feature dimensions (`FeatureMap`), which is what the released code does;
- a distance between two samples (`sinkhorn_divergence`), which is what "distribution level" says.

The released code computes exp(-C / epsilon) in float32, which is 0 everywhere for entries as small as theirs, and
leaves its plan D times smaller than a permutation. Logarithms and a factor of D mend that.

Shapes: n and m samples, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genrec.semtok.quantizers.sinkhorn import sinkhorn


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


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances [n, m] between rows [n, D] and [m, D]."""
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T
    # Below the bound, where a root would have no gradient, points count as one and pull on nothing.
    return squares.clamp(min=1e-9).sqrt()


def relative_epsilon(x: Tensor, y: Tensor, share: float) -> float:
    """`share` of the median distance between two samples, for `sinkhorn_divergence`; never quite 0."""
    return max(share * float(distances(x.detach(), y.detach()).median()), 1e-6)


def sinkhorn_divergence(x: Tensor, y: Tensor, epsilon: float, iterations: int = 50) -> Tensor:
    """Debiased entropic 1-Wasserstein distance between two samples of even shares.

    S(x, y) = W(x, y) - W(x, x) / 2 - W(y, y) / 2 with W the entropic transport cost at Euclidean distance (Feydy et al.
    2019, arXiv 1810.08278, equations 1 to 3): 0 where the samples agree, and positive elsewhere.

    The gradient is that of the exact value by the envelope theorem, plan times gradient of the distances: it does not
    run through the iterations.

    Args:
        x: [n, D].
        y: [m, D].
        epsilon: in units of the distances; see `relative_epsilon`.
        iterations: Sinkhorn updates.

    Returns:
        A scalar.
    """
    return transport_cost(distances(x, y), epsilon, iterations) - 0.5 * (
        transport_cost(distances(x, x), epsilon, iterations) + transport_cost(distances(y, y), epsilon, iterations)
    )


def transport_cost(costs: Tensor, epsilon: float, iterations: int) -> Tensor:
    """min over plans P with even shares of sum(P C) + epsilon KL(P | 1/n 1/m), for costs [n, m]; a scalar.

    Peyre and Cuturi 2019, arXiv 1803.00567, equation 4.2, with the entropy taken relative to the even plan.
    """
    with torch.no_grad():
        log_plan = sinkhorn(costs.detach(), epsilon, iterations)
        plan = log_plan.exp()
        relative = log_plan + math.log(costs.numel())
        entropy = (plan * relative).sum()
    return (plan * costs).sum() + epsilon * entropy
