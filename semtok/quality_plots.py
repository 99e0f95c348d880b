"""Pictures of a quality report: how evenly codes are used, and which prefixes mean something. The same report gives the
same bytes.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from genrec.semtok.figures import figure, png
from genrec.semtok.folders import write_atomic
from genrec.semtok.quality import SidQuality
from genrec.semtok.semantic_ids import SemanticIds


def plot_quality(quality: SidQuality, ids: SemanticIds, folder: Path) -> list[Path]:
    """Write `code_use.png` and `prefix_agreement.png` into an existing folder; returns their paths."""
    pictures = {"code_use.png": _code_use(quality, ids), "prefix_agreement.png": _prefix_agreement(quality)}
    for name, drawn in pictures.items():
        write_atomic(folder / name, png(drawn))
    return [folder / name for name in pictures]


def _code_use(quality: SidQuality, ids: SemanticIds) -> Figure:
    """Items by code on each level, codes in order of their use, against even use."""
    drawn = figure(3.2 * len(ids.sizes), 3.2)
    for level, size in enumerate(ids.sizes):
        axes = drawn.add_subplot(1, len(ids.sizes), level + 1)
        counts = np.sort(np.bincount(ids.codes[:, level], minlength=size))[::-1]
        axes.fill_between(np.arange(size), counts, step="mid", color="tab:blue", alpha=0.7)
        axes.axhline(len(ids) / size, color="black", linewidth=0.8, linestyle="--", label="even use")
        used, entropy, gini = quality.codes_used[level], quality.entropy[level], quality.gini[level]
        axes.set_title(f"level {level + 1}: {used} of {size} used\n{entropy:.2f} bits, Gini {gini:.2f}", fontsize=9)
        axes.set_xlabel("code, by use")
        if level == 0:
            axes.set_ylabel("items")
            axes.legend(fontsize=8)
    return drawn


def _prefix_agreement(quality: SidQuality) -> Figure:
    """Share of neighbours with the same prefix, by its length, on a logarithmic scale."""
    drawn = figure(5.0, 3.2)
    axes = drawn.add_subplot()
    lines = {
        "10 nearest by text": quality.text_agreement,
        "10 nearest by collaborative vector": quality.collaborative_agreement,
        "two random items": quality.random_agreement,
    }
    present = {name: shares for name, shares in lines.items() if shares is not None}
    depths = np.arange(1, len(quality.random_agreement) + 1)
    for index, (name, shares) in enumerate(present.items()):
        bars = axes.bar(depths + 0.25 * (index - (len(present) - 1) / 2), np.nan_to_num(shares), width=0.23, label=name)
        labels = ["" if math.isnan(share) else f"{share:.1%}" for share in shares]
        axes.bar_label(bars, labels=labels, fontsize=7)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_xticks(depths, [f"first {depth}" if depth > 1 else "first code" for depth in depths])
    axes.set_ylabel("share with the same prefix")
    axes.legend(fontsize=8)
    return drawn
