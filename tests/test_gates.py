"""The dimension-wise gate and the curriculum."""

from __future__ import annotations

import math

import pytest
import torch

from genrec.semtok.aligners.config import FaeRecConfig
from genrec.semtok.aligners.faerec import DimensionGate, curriculum
from genrec.semtok.errors import InputError


def test_the_gate_is_its_equation() -> None:
    torch.manual_seed(0)
    gate = DimensionGate(3).double().eval()
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    hidden = torch.nn.functional.gelu(torch.cat([x, y], dim=1) @ gate.hidden.weight.T + gate.hidden.bias)
    torch.testing.assert_close(gate(x, y), 1 / (1 + torch.exp(-(hidden @ gate.out.weight.T + gate.out.bias))))


def test_the_gate_starts_near_one_half() -> None:
    torch.manual_seed(0)
    values = DimensionGate(64).eval()(0.1 * torch.randn(50, 64), 0.1 * torch.randn(50, 64))
    assert abs(values.mean().item() - 0.5) < 0.02


@pytest.mark.parametrize(("epoch", "item"), [(0, 1.0), (5, 0.65), (10, 0.3), (15, 0.65), (20, 1.0), (30, 0.3)])
def test_the_curriculum_goes_to_the_features_and_back(epoch: float, item: float) -> None:
    assert curriculum(epoch, minimum=0.3, period=20) == pytest.approx((item, 1 - item))


@pytest.mark.parametrize(("minimum", "period"), [(-0.1, 20), (1.1, 20), (0.3, 0), (0.3, math.nan)])
def test_a_bad_curriculum_is_refused(minimum: float, period: float) -> None:
    with pytest.raises(InputError, match=r"minimum|period"):
        FaeRecConfig(minimum=minimum, period=period)
