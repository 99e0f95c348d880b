"""Transport against an optimal-transport library, its marginals, its equations in float64 and gradcheck."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from genrec.semtok.aligners.transport import FeatureMap, feature_costs, sinkhorn


def sample(n: int, width: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, width, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def test_feature_costs_by_their_definition() -> None:
    words, behaviour = sample(30, 4, 0), sample(30, 5, 1)
    expected = ((words[:, :, None] - behaviour[:, None, :]) ** 2).mean(dim=0)
    torch.testing.assert_close(feature_costs(words, behaviour), expected)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 100.0])
def test_a_permutation_of_the_features_is_found_at_every_scale(scale: float) -> None:
    """At scale 0.1 the released code's plan has no mass left; here scale changes nothing."""
    behaviour = sample(400, 16, 0, scale).float()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    words = behaviour[:, order] + sample(400, 16, 2, 0.3 * scale).float()
    moved = FeatureMap(16)
    moved.update(words, behaviour)
    expected = torch.zeros(16, 16)
    expected[torch.arange(16), order] = 1
    torch.testing.assert_close(moved.plan, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(moved(behaviour[:, order]), behaviour, atol=0.05 * scale, rtol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_plan_keeps_its_mass_where_nothing_matches(scale: float) -> None:
    words, behaviour = (sample(300, 64, seed, scale).float() for seed in (0, 1))
    moved = FeatureMap(64)
    moved.update(words, behaviour)
    ones = torch.ones(64)
    torch.testing.assert_close(moved.plan.sum(dim=0), ones, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.plan.sum(dim=1), ones, atol=0.1, rtol=0)
    # What the map does to a vector's length: close to a permutation, not to a mean of all features.
    assert 0.5 < float(moved(words).detach().norm() / words.norm()) <= 1.01


def test_the_plan_is_the_librarys() -> None:
    words, behaviour = sample(50, 8, 0), sample(50, 8, 1)
    moved = FeatureMap(8, epsilon=0.3, iterations=1000).double()
    moved.update(words, behaviour)
    costs = ((words[:, :, None] - behaviour[:, None, :]) ** 2).mean(dim=0).numpy()
    centred = costs - costs.mean(axis=0) - costs.mean(axis=1, keepdims=True) + costs.mean()
    even = np.full(8, 1 / 8)
    # The library gets the plain costs: row and column means must not matter.
    epsilon = 0.3 * centred.std(ddof=1)
    plan = ot.sinkhorn(even, even, costs, epsilon, method="sinkhorn_log", numItermax=3000, stopThr=1e-11)
    np.testing.assert_allclose(moved.plan.numpy(), 8 * plan, atol=1e-7)


def test_the_residual_starts_at_nothing_and_alone_is_trained() -> None:
    moved = FeatureMap(4)
    words = sample(9, 4, 0).float().requires_grad_()
    torch.testing.assert_close(moved(words), words)  # before the first plan
    moved(words).square().sum().backward()
    assert [name for name, _ in moved.named_parameters()] == ["residual"]
    assert float(moved.residual.grad.abs().sum()) > 0
    assert set(moved.state_dict()) == {"residual", "plan"}


def test_constant_features_leave_the_last_plan() -> None:
    moved = FeatureMap(3)
    moved.update(torch.ones(5, 3), torch.ones(5, 3))
    torch.testing.assert_close(moved.plan, torch.eye(3))


def test_sinkhorn_has_even_shares_and_tends_to_the_best_assignment() -> None:
    costs = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan = sinkhorn(costs, epsilon=0.005, iterations=2000).exp()
    torch.testing.assert_close(plan.sum(dim=0), torch.full((6,), 1 / 6, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(dim=1), torch.full((6,), 1 / 6, dtype=torch.float64), atol=1e-3, rtol=0)
    rows, columns = linear_sum_assignment(costs.numpy())
    assert plan.argmax(dim=1)[rows].tolist() == columns.tolist()


def test_sinkhorn_agrees_with_scaling_in_float64() -> None:
    costs = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kernel, v = torch.exp(-costs / 0.5), torch.ones(3, dtype=torch.float64)
    for _ in range(20):
        u = (1 / 5) / (kernel @ v)
        v = (1 / 3) / (kernel.T @ u)
    torch.testing.assert_close(sinkhorn(costs, 0.5, 20).exp(), u[:, None] * kernel * v)


def test_sinkhorn_stays_finite_where_the_kernel_underflows() -> None:
    costs = torch.tensor([[500.0, 501.0], [500.0, 502.0], [500.0, 503.0], [500.0, 504.0]])
    assert not torch.exp(-costs).any()
    plan = sinkhorn(costs, epsilon=1.0, iterations=50)
    torch.testing.assert_close(plan.exp().sum(dim=0), torch.tensor([0.5, 0.5]))
    assert plan.argmax(dim=1).tolist() == [1, 1, 0, 0]  # half of the rows each, those that lose least
