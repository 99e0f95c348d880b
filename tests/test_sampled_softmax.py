"""The sampled softmax: all classes give the full one, and a sample stands for what it left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.semtok.errors import InputError
from genrec.training.loop.losses import linear_cross_entropy
from genrec.training.sequential.fit import Softmax
from genrec.training.sequential.sampled_softmax import draw, inclusion, sampled_softmax


def batch(classes: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    vectors = torch.randn(classes, 5, generator=generator, dtype=torch.float64)
    return hidden, vectors, torch.randint(classes, (7,), generator=generator)


def test_all_classes_are_the_full_softmax() -> None:
    hidden, vectors, targets = batch()
    expected = torch.nn.functional.cross_entropy(hidden @ vectors.T, targets, reduction="sum")
    torch.testing.assert_close(sampled_softmax(hidden, vectors, targets, draw(torch.ones(30))), expected)
    softmax = Softmax(np.arange(30), 30, None)
    torch.testing.assert_close(softmax(hidden.float(), vectors.float(), targets), expected.float())
    torch.testing.assert_close(
        linear_cross_entropy(hidden.float(), vectors.float(), targets), expected.float(), rtol=1e-5, atol=1e-5
    )


def test_the_sum_in_the_logarithm_has_the_mean_of_the_full_one() -> None:
    hidden, vectors, targets = batch()
    probability = inclusion(np.arange(30), 10)
    torch.manual_seed(0)
    own = torch.exp((hidden * vectors[targets]).sum(dim=1))[0]
    losses = [sampled_softmax(hidden[:1], vectors, targets[:1], draw(probability.double())) for _ in range(4000)]
    totals = own * torch.exp(torch.stack(losses))
    full = torch.exp(hidden[:1] @ vectors.T).sum()
    assert abs(totals.mean() - full) < 4 * totals.std() / len(totals) ** 0.5
    assert totals.std() > 0.05 * full  # it is a sample


def test_gradients() -> None:
    hidden, vectors, targets = batch()
    probability = inclusion(np.arange(30), 10).double()

    def loss(h: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return sampled_softmax(h, v, targets, draw(probability))

    assert torch.autograd.gradcheck(loss, (hidden.requires_grad_(), vectors.requires_grad_()))


def test_it_is_computed_in_float32_whatever_the_model_is_in() -> None:
    hidden, vectors, targets = batch()
    coarse, vectors = hidden.bfloat16().requires_grad_(), vectors.float().requires_grad_()
    drawn = draw(inclusion(np.arange(30), 10))
    exact = sampled_softmax(coarse.detach().float(), vectors, targets, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampled_softmax(coarse, vectors, targets, drawn)
    torch.testing.assert_close(loss, exact)
    loss.backward()
    assert coarse.grad is not None
    assert vectors.grad is not None
    assert (coarse.grad.dtype, vectors.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("negatives", [1, 5, 29, 30, 100])
@pytest.mark.parametrize("power", [0.0, 0.75])
def test_inclusion_sums_to_the_sample_and_is_never_above_one(negatives: int, power: float) -> None:
    counts = np.array([1000, 500] + [1] * 27 + [0])
    probability = inclusion(counts, negatives, power)
    assert probability.sum().item() == pytest.approx(min(negatives, 30), rel=1e-5)
    assert (probability > 0).all()
    assert (probability <= 1).all()
    assert (probability.diff() <= 1e-6).all()  # popular ones at least as often


def test_items_that_come_later_are_no_classes() -> None:
    from genrec.sequential.base import ColdItems

    hidden, vectors, targets = batch(6)
    hidden, vectors, targets = hidden.float(), vectors.float(), torch.tensor([0, 2, 3, 5, 0, 2, 3])
    cold = ColdItems(np.array([1, 4]), np.zeros((2, 3), dtype=np.float32))
    kept = torch.tensor([0, 2, 3, 5])
    expected = torch.nn.functional.cross_entropy(
        hidden @ vectors[kept].T, torch.tensor([0, 1, 2, 3, 0, 1, 2]), reduction="sum"
    )
    softmax = Softmax(np.array([2, 0, 2, 2, 0, 1]), None, cold)
    torch.testing.assert_close(softmax(hidden, vectors, targets), expected)
    softmax = Softmax(np.array([2, 0, 2, 2, 0, 1]), 4, cold)
    torch.testing.assert_close(softmax(hidden, vectors, targets), expected)
    with pytest.raises(InputError, match="--negatives 0"):
        Softmax(np.array([1, 2]), 0, None)
