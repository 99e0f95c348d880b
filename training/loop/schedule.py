"""The one optimiser and its learning-rate schedule: linear warm-up, then half a cosine down to a tenth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Warmup:
    """Steps over which the rate rises: one in `one_in` of all steps, but at most `longest`."""

    one_in: int = 20
    longest: int = 200

    def steps(self, total_steps: int) -> int:
        """How many of `total_steps` they are; at least one."""
        return min(self.longest, total_steps // self.one_in + 1)


def adamw(*groups: tuple[Iterable[nn.Parameter], float], weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW over groups of parameters, each with the peak of its learning rate (`peak` in the group's settings)."""
    settings = [{"params": list(parameters), "peak": peak, "lr": peak} for parameters, peak in groups]
    return torch.optim.AdamW(settings, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)


def set_learning_rates(groups: Sequence[dict[str, Any]], step: int, total_steps: int, warmup: Warmup) -> None:
    """Give each group its rate for `step` in [0, total_steps).

    A group's `begins`, where it has one, is the step that its own schedule starts at; before it the rate is 0.
    """
    for settings in groups:
        begins = settings.get("begins", 0)
        left = max(1, total_steps - begins)
        factor = learning_rate_factor(step - begins, left, warmup.steps(left)) if step >= begins else 0.0
        settings["lr"] = settings["peak"] * factor


def drop_waiting_gradients(groups: Sequence[dict[str, Any]]) -> None:
    """Take the gradients from groups that have not begun: to AdamW they are not there (no step, no decay, no state)."""
    for settings in groups:
        if settings["lr"] == 0:
            for parameter in settings["params"]:
                parameter.grad = None


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Factor in (0, 1] for `step` in [0, total_steps)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))
