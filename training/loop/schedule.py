"""The one learning-rate schedule: linear warm-up, then half a cosine down to a tenth."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Factor in (0, 1] for `step` in [0, total_steps)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))
