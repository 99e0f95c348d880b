"""The device that models are trained on, and read from where nobody says otherwise."""

from __future__ import annotations

import torch


def default_device() -> torch.device:
    """A GPU where one answers, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
