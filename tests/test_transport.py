"""Transport against an optimal-transport library, its marginals, its equations in float64 and gradcheck."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from genrec.semtok.aligners.transport import (
    FeatureMap,
    distances,
    feature_costs,
    relative_epsilon,
    sinkhorn_divergence,
    transport_cost,
)


def sample(n: int, width: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, width, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def pot_cost(costs: torch.Tensor, epsilon: float) -> float:
    """sum(P C) + epsilon KL(P | even) at the library's plan."""
    n, m = costs.shape
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    plan = ot.sinkhorn(a, b, costs.numpy(), epsilon, method="sinkhorn_log", numItermax=3000, stopThr=1e-11)
    return float((plan * costs.numpy()).sum() + epsilon * (plan * np.log(plan * n * m)).sum())


@pytest.mark.parametrize(("n", "m", "epsilon"), [(7, 7, 0.5), (5, 9, 0.2), (12, 3, 1.0)])
def test_the_entropic_cost_is_the_librarys(n: int, m: int, epsilon: float) -> None:
    costs = distances(sample(n, 3, 0), sample(m, 3, 1))
    np.testing.assert_allclose(float(transport_cost(costs, epsilon, 1000)), pot_cost(costs, epsilon), rtol=1e-8)


def test_the_divergence_is_the_debiased_cost_of_the_librarys_plans() -> None:
    x, y = sample(10, 4, 0), sample(8, 4, 1) + 1
    cross, own, other = (pot_cost(distances(a, b), 0.6) for a, b in ((x, y), (x, x), (y, y)))
    np.testing.assert_allclose(float(sinkhorn_divergence(x, y, 0.6, 500)), cross - (own + other) / 2, rtol=1e-6)


def test_a_small_epsilon_gives_the_exact_wasserstein_distance() -> None:
    x, y = sample(9, 2, 0), sample(9, 2, 1) + 2
    costs = distances(x, y).numpy()
    rows, columns = linear_sum_assignment(costs)
    np.testing.assert_allclose(float(sinkhorn_divergence(x, y, 1e-2, 1000)), costs[rows, columns].mean(), rtol=1e-2)


def test_the_divergence_is_nothing_only_between_equal_samples() -> None:
    x = sample(12, 3, 0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert abs(float(sinkhorn_divergence(x, x[order], 0.2, 500))) < 1e-6
    for seed in range(1, 6):
        assert float(sinkhorn_divergence(x, sample(9, 3, seed), 0.2, 500)) > 0.01
    # The part that debiasing takes away: the cost alone is far from 0.
    assert float(transport_cost(distances(x, x), 0.2, 500)) > 0.1


def test_the_divergence_passes_gradcheck() -> None:
    x, y = sample(4, 2, 0).requires_grad_(), sample(5, 2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: sinkhorn_divergence(a, b, 1.0, 60), (x, y))


def test_following_the_gradient_moves_one_sample_onto_the_other() -> None:
    x, y = sample(32, 2, 0).float().requires_grad_(), (sample(32, 2, 1) * 0.3 + 3).float()
    before = float(sinkhorn_divergence(x, y, relative_epsilon(x, y, 0.05)).detach())
    optimizer = torch.optim.Adam([x], lr=0.2)
    for _ in range(50):
        optimizer.zero_grad()
        sinkhorn_divergence(x, y, relative_epsilon(x, y, 0.05), 15).backward()
        optimizer.step()
    assert float(sinkhorn_divergence(x, y, relative_epsilon(x, y, 0.05)).detach()) < 0.05 * before
    torch.testing.assert_close(x.detach().mean(dim=0), y.mean(dim=0), atol=0.1, rtol=0)


def test_epsilon_follows_the_median_distance() -> None:
    x, y = sample(20, 3, 0), sample(30, 3, 1)
    assert relative_epsilon(x, y, 0.1) == pytest.approx(0.1 * float(torch.cdist(x, y).median()))
    assert relative_epsilon(10 * x, 10 * y, 0.1) == pytest.approx(10 * relative_epsilon(x, y, 0.1))
    assert relative_epsilon(x[:1], x[:1], 0.1) > 0


def test_distances_are_euclidean_and_pull_on_nothing_where_points_meet() -> None:
    x, y = sample(6, 5, 0).requires_grad_(), sample(4, 5, 1)
    torch.testing.assert_close(distances(x, y), torch.cdist(x, y))
    distances(x, x).diagonal().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert float(x.grad.abs().max()) < 1e-6


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
