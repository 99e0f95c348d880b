"""Pictures of a comparison: recall by item frequency, how vectors lie before and after, and a map of them.

Alignment and uniformity are those of Wang and Isola (ICML 2020, arXiv 2005.10242), on vectors of unit length:

    alignment  = mean over pairs of |x - y|^2              pairs: items that follow one another in training histories
    uniformity = log of the mean over all pairs of exp(-2 |x - y|^2)

Less is better for both: what is taken together lies together, and all items use the whole sphere. The same input gives
the same bytes.

Shapes: N items, D width, P pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from genrec.data.sequences import Sequences
from genrec.semtok.catalog import Catalog
from genrec.semtok.figures import figure, png
from genrec.semtok.folders import write_atomic
from genrec.semtok.vectors import unit_rows

Vectors = NDArray[np.float32]
_PAIRS, _ITEMS, _MAPPED, _CATEGORIES = 20_000, 2_000, 600, 8


def plot_comparison(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    groups: Sequence[str],
    vectors: Mapping[str, Vectors],
    train: Sequences,
    catalog: Catalog,
    text: Vectors,
) -> None:
    """Write `recall_by_frequency.png`, `alignment_uniformity.png` and, where items have categories, `map.png`.

    Args:
        rows: of `metrics.json`.
        groups: slices of targets by their training events, rarest first.
        vectors: [N, D] of each model, of one seed.
        text: [N, D_t], what they were before.
    """
    every = {"text vectors": text, **vectors}
    pictures = {
        "recall_by_frequency.png": _recall_by_frequency(rows, groups),
        "alignment_uniformity.png": _alignment_uniformity(every, train),
        "map.png": _map(every, train, catalog),
    }
    for name, drawn in pictures.items():
        if drawn is not None:
            write_atomic(folder / name, png(drawn))


def alignment(vectors: Vectors, pairs: NDArray[np.int32]) -> float:
    """Mean squared distance of unit vectors over pairs [P, 2] of rows."""
    units = unit_rows(vectors).astype(np.float64)
    return float(np.square(units[pairs[:, 0]] - units[pairs[:, 1]]).sum(axis=1).mean())


def uniformity(vectors: Vectors) -> float:
    """Log of the mean of exp(-2 |x - y|^2) over all pairs of different rows, on unit vectors."""
    units = unit_rows(vectors).astype(np.float64)
    kernel = np.exp(-4 * (1 - units @ units.T))
    n = len(units)
    return float(np.log((kernel.sum() - np.trace(kernel)) / (n * (n - 1))))


def following_pairs(train: Sequences, n: int) -> NDArray[np.int32]:
    """At most n pairs [P, 2] of different items that follow one another in a history, drawn at random."""
    pairs = train.pairs()
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return pairs[np.sort(np.random.default_rng(0).permutation(len(pairs))[:n])]


def categories(catalog: Catalog) -> list[str] | None:
    """One category an item: the first level of `categories` that tells items apart; None where there is none.

    A level tells items apart where no category has four fifths of them.
    """
    if "categories" not in catalog.attributes.columns or catalog.attributes["categories"].dtype != pl.List(pl.String):
        return None
    paths = [path or [] for path in catalog.attributes["categories"].to_list()]
    for level in range(max(map(len, paths), default=0)):
        names = [path[level] if len(path) > level else "" for path in paths]
        if max(Counter(names).values()) < 0.8 * len(names):
            return names
    return None


def _recall_by_frequency(rows: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> Figure:
    found = {(row["model"], row["slice"]): row for row in rows if row["metric"] == "recall" and row["k"] == 10}
    models = list(dict.fromkeys(model for model, _ in found))
    present = [name for name in ("cold", *groups) if any((model, name) in found for model in models)]
    drawn = figure(9.0, 4.2)
    axes = drawn.add_subplot()
    for index, model in enumerate(models):
        places = [place for place, name in enumerate(present) if (model, name) in found]
        shown = [found[model, present[place]] for place in places]
        axes.errorbar(
            places,
            [row["value"] for row in shown],
            [row["spread"] or 0.0 for row in shown],
            label=model,
            color=f"C{index % 10}",
            linestyle="-" if index < 10 else "--",
            marker="o",
            markersize=3,
            capsize=2,
        )
    cases = {name: max(row["n"] for (_, slice_), row in found.items() if slice_ == name) for name in present}
    axes.set_xticks(range(len(present)), [f"{name}\n{cases[name]:,} cases" for name in present])
    axes.set(xlabel="training events of the target", ylabel="Recall@10, mean and spread over seeds")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return drawn


def _alignment_uniformity(vectors: Mapping[str, Vectors], train: Sequences) -> Figure:
    pairs = following_pairs(train, _PAIRS)
    taken = np.unique(train.values)
    sample = np.sort(np.random.default_rng(0).permutation(taken)[:_ITEMS])
    drawn = figure(6.5, 4.6)
    axes = drawn.add_subplot()
    for index, (name, values) in enumerate(vectors.items()):
        place = alignment(values, pairs), uniformity(values[sample])
        axes.scatter(*place, marker="s" if index == 0 else "o", color=f"C{index % 10}")
        axes.annotate(name, place, xytext=(5, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="alignment (less: what is taken together lies together)", ylabel="uniformity (less: more even)")
    axes.margins(0.15)
    return drawn


def _map(vectors: Mapping[str, Vectors], train: Sequences, catalog: Catalog) -> Figure | None:
    names = categories(catalog)
    if names is None:
        return None
    taken = np.unique(train.values)
    sample = np.sort(np.random.default_rng(0).permutation(taken)[:_MAPPED])
    largest = [name for name, _ in Counter(names[row] for row in sample if names[row]).most_common(_CATEGORIES)]
    colours = np.array([largest.index(names[row]) if names[row] in largest else -1 for row in sample])
    columns = min(4, len(vectors))
    lines = -(-len(vectors) // columns)
    drawn = figure(3.2 * columns, 3.3 * lines + 0.7)
    for index, (model, values) in enumerate(vectors.items()):
        axes = drawn.add_subplot(lines, columns, index + 1)
        places = _two_dimensions(unit_rows(values[sample]))
        for colour in (-1, *range(len(largest))):
            members = places[colours == colour]
            shade = "#d8d8d8" if colour < 0 else f"C{colour}"
            label = "other" if colour < 0 else largest[colour]
            axes.scatter(members[:, 0], members[:, 1], s=4, color=shade, label=label, linewidths=0)
        axes.set_title(model, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7, frameon=False, markerscale=3)
    return drawn


def _two_dimensions(units: Vectors) -> Vectors:
    """t-SNE [n, 2] from the main components; the same input gives the same map.

    Rows that are all alike have no main components (sklearn would crash the process), nor have those of one dimension
    two: their first entries are their places.
    """
    if units.shape[1] < 2 or np.ptp(units, axis=0).max() == 0:
        return np.pad(units, ((0, 0), (0, 1)))[:, :2]
    perplexity = min(30.0, (len(units) - 1) / 3)
    with threadpool_limits(1, user_api="openmp"):  # its threads wait for one another longer than they work
        places: Vectors = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(units)
    return places
