"""Pictures that are the same bytes for the same input, without a window."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def png(drawn: Figure) -> bytes:
    """A figure as a PNG file."""
    data = io.BytesIO()
    drawn.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()
