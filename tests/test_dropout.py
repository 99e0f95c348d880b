"""Dropout by bytes: shares and scales as announced, entries independent, gradients those of the mask."""

from __future__ import annotations

import pytest
import torch

from genrec.semtok.dropout import Dropout, dropout


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_a_share_is_dropped_and_the_mean_stays(rate: float) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(1001, 333), rate)
    zero = (out == 0).double().mean().item()
    assert zero == pytest.approx(rate, abs=1 / 512 + 0.003)
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert len(out.unique()) == 2


def test_entries_are_independent_of_their_neighbours() -> None:
    """Of one byte with the others of its word, with those of the next word, and between two calls."""
    torch.manual_seed(0)
    first, second = (dropout(torch.ones(8 * 40_000), 0.5) > 0 for _ in range(2))
    bits = first.double() * 2 - 1
    for apart in range(1, 17):
        assert (bits[apart:] * bits[:-apart]).mean().abs() < 0.01
    assert (bits * (second.double() * 2 - 1)).mean().abs() < 0.01
    assert (bits.view(-1, 8).mean(dim=0).abs() < 0.02).all()


def test_gradients_are_those_of_the_mask_and_the_seed_decides() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    out = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(out, x * gradient)
    torch.manual_seed(3)
    torch.testing.assert_close(dropout(x, 0.4), out)


def test_nothing_is_dropped_outside_training_and_everything_at_rates_beside_a_byte() -> None:
    x, layer = torch.randn(3, 4), Dropout(0.5)
    assert layer.eval()(x) is x
    assert dropout(x, 0.0) is x
    assert dropout(torch.ones(0, 3), 0.5).shape == (0, 3)
    assert (dropout(x, 0.9999) == 0).sum() >= 11
    assert (dropout(torch.ones(100), 1e-5) > 0).all()


def test_half_precision_keeps_its_type() -> None:
    out = dropout(torch.ones(64, dtype=torch.bfloat16), 0.5)
    assert out.dtype == torch.bfloat16
    assert set(out.tolist()) == {0.0, 2.0}
