"""Alignment losses against a direct loop over their equations in float64, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.semtok.aligners.losses import (
    code_diversity,
    collaborative_contrast,
    feature_correlation,
    feature_correlation_by_popularity,
    item_contrast,
    soft_target_contrast,
    symmetric_contrast,
)

ITEMS = torch.tensor([3, 1, 3, 7, 1, 3])
COUNTS = torch.tensor([9, 2, 9, 4, 2, 9])


def views(seed: int = 0, rows: int = 6, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return first, second


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y) / (math.sqrt(float(x @ x)) * math.sqrt(float(y @ y)))


def looped_item_contrast(anchors: Tensor, others: Tensor, items: list[int], tau: float) -> float:
    total = 0.0
    for i in range(len(anchors)):
        rivals = [j for j in range(len(items)) if j == i or items[j] != items[i]]
        denominator = sum(math.exp(cosine(anchors[i], others[j]) / tau) for j in rivals)
        total -= math.log(math.exp(cosine(anchors[i], others[i]) / tau) / denominator)
    return total / len(anchors)


def looped_soft_target(x: Tensor, y: Tensor, tau: float, scale: float) -> float:
    m = len(x)
    logits = [[float(x[i] @ y[j]) / tau for j in range(m)] for i in range(m)]
    alike = [[float(x[i] @ x[j] + y[i] @ y[j]) / 2 * scale for j in range(m)] for i in range(m)]
    target = [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in alike]
    total = 0.0
    for i in range(m):
        for j in range(m):
            along_row = logits[i][j] - math.log(sum(math.exp(logits[i][k]) for k in range(m)))
            along_column = logits[j][i] - math.log(sum(math.exp(logits[k][i]) for k in range(m)))
            total -= target[i][j] * along_row + target[j][i] * along_column
    return total / (2 * m)


def looped_correlation(x: Tensor, y: Tensor, weight: float) -> float:
    m, d = x.shape

    def standard(values: Tensor, k: int) -> list[float]:
        column = [float(v) for v in values[:, k]]
        mean = sum(column) / m
        deviation = math.sqrt(sum((v - mean) ** 2 for v in column) / m)
        return [(v - mean) / (deviation + 1e-5) for v in column]

    total = 0.0
    for k in range(d):
        for el in range(d):
            c = sum(a * b for a, b in zip(standard(x, k), standard(y, el), strict=True)) / m
            total += (1 - c) ** 2 if k == el else weight * c**2
    return total


@settings(max_examples=25, deadline=None)
@given(
    items=st.lists(st.integers(0, 4), min_size=2, max_size=7),
    tau=st.floats(0.05, 2.0),
    seed=st.integers(0, 1000),
)
def test_item_contrast_is_its_equation(items: list[int], tau: float, seed: int) -> None:
    x, y = views(seed, len(items))
    rows = torch.tensor(items)
    forth, back = looped_item_contrast(x, y, items, tau), looped_item_contrast(y, x, items, tau)
    assert item_contrast(x, y, rows, tau).item() == pytest.approx(forth, abs=1e-9)
    assert symmetric_contrast(x, y, rows, tau).item() == pytest.approx((forth + back) / 2, abs=1e-9)


def test_repeated_items_are_neither_positives_nor_negatives() -> None:
    x, y = views()
    only_one = torch.full((6,), 5)
    assert item_contrast(x, y, only_one, 0.1).item() == 0.0
    # Moving another row of the same item changes nothing for the row that is looked at.
    moved = y.clone()
    moved[2] = -y[2]
    x.requires_grad_()
    (before,) = torch.autograd.grad(item_contrast(x, y, ITEMS, 0.1), x)
    (after,) = torch.autograd.grad(item_contrast(x, moved, ITEMS, 0.1), x)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_the_contrast_falls_as_views_of_an_item_meet() -> None:
    x, y = views()
    items = torch.arange(6)
    losses = [symmetric_contrast(x, (1 - s) * y + s * x, items, 0.2).item() for s in (0.0, 0.5, 1.0)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(("tau", "scale"), [(2.0, None), (0.7, None), (0.5, 2.0)])
def test_soft_targets_are_their_equation(tau: float, scale: float | None) -> None:
    x, y = views()
    expected = looped_soft_target(x, y, tau, tau if scale is None else scale)
    assert soft_target_contrast(x, y, tau, scale).item() == pytest.approx(expected, abs=1e-9)


def test_soft_targets_spare_items_that_are_alike() -> None:
    x = torch.eye(4, dtype=torch.float64)
    x[1] = x[0]  # two items with the same words
    apart = x.clone()
    apart[1] = torch.tensor([-1.0, 0, 0, 0])
    together = soft_target_contrast(8 * x, 8 * x, 1.0)
    assert together < soft_target_contrast(8 * x, 8 * apart, 1.0)
    assert together.item() == pytest.approx(math.log(2) / 2, abs=1e-6)  # half the rows share their target between two


@pytest.mark.parametrize("weight", [0.005, 0.3])
def test_feature_correlation_is_its_equation(weight: float) -> None:
    x, y = views(rows=9)
    assert feature_correlation(x, y, weight).item() == pytest.approx(looped_correlation(x, y, weight), abs=1e-9)


def test_equal_uncorrelated_features_cost_nothing() -> None:
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert feature_correlation(signs, 3 * signs + 1).item() == pytest.approx(0, abs=1e-8)
    assert feature_correlation(signs, -signs).item() == pytest.approx(8, abs=1e-3)
    assert feature_correlation(signs[:1], signs[:1]).item() == 0


def test_popularity_halves_are_taken_apart() -> None:
    x, y = views(rows=6)
    popular = [0, 2, 5]  # above the median of 4 (the lower of the two middle ones)
    expected = looped_correlation(x[popular], y[popular], 0.005) + looped_correlation(x[[1, 3, 4]], y[[1, 3, 4]], 0.005)
    assert feature_correlation_by_popularity(x, y, COUNTS).item() == pytest.approx(expected, abs=1e-9)
    alike = torch.ones(6, dtype=torch.int64)  # nobody is above the median
    assert feature_correlation_by_popularity(x, y, alike).item() == pytest.approx(looped_correlation(x, y, 0.005))


def test_letters_terms_are_their_equations() -> None:
    quantised, known = views()
    inner = (quantised @ known.T).tolist()
    expected = -sum(math.log(math.exp(inner[i][i]) / sum(math.exp(v) for v in inner[i])) for i in range(6)) / 6
    assert collaborative_contrast(quantised, known).item() == pytest.approx(expected)
    book, codes, mates = views()[0], [0, 3, 3, 5], [1, 2, 4, 0]
    total = 0.0
    for code, mate in zip(codes, mates, strict=True):
        others = [math.exp(float(book[code] @ book[j])) for j in range(6) if j != code]
        total -= math.log(math.exp(float(book[code] @ book[mate])) / sum(others))
    assert code_diversity(book, torch.tensor(codes), torch.tensor(mates)).item() == pytest.approx(total / 4)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: item_contrast(x, y, ITEMS, 0.2),
        lambda x, y: symmetric_contrast(x, y, ITEMS, 0.2),
        lambda x, y: soft_target_contrast(x, y, 2.0),
        lambda x, y: soft_target_contrast(x, y, 0.3, 1 / 0.3),
        lambda x, y: feature_correlation(x, y),
        lambda x, y: feature_correlation_by_popularity(x, y, COUNTS),
        collaborative_contrast,
        lambda x, y: code_diversity(x, torch.arange(6), torch.arange(6).roll(1)) + y.sum(),
    ],
)
def test_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, y = views()
    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), y.requires_grad_()))


def test_the_temperature_of_soft_targets_can_be_learned() -> None:
    x, y = views()
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: soft_target_contrast(x, y, t), (tau,))
