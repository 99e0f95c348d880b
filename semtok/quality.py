"""How good semantic IDs are, before any language model is trained on them.

Use it to see collapse, collisions and prefixes that mean nothing; it does not rank two healthy tokenizers.

Shapes: N items, U people, L levels, V_l codes on level l, S sampled items, P pairs of neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from genrec.semtok.quantizers import Quantizer
from genrec.semtok.quantizers.collisions import path_numbers, shared_by
from genrec.semtok.quantizers.residual import Codes, Floats
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import unit_rows

NEIGHBOURS = 10
_SAMPLE = 2000


@dataclass(frozen=True)
class SidQuality:
    """The quality report."""

    n_items: int  # N
    sizes: tuple[int, ...]  # codes on each level
    collision_rate_before: float  # share of items that the quantiser gave the codes of another item
    collision_rate_after: float  # the same once collisions are resolved
    moved_share: float  # share of items whose codes are not the quantiser's
    codes_used: tuple[int, ...]  # codes that some item has, by level
    entropy: tuple[float, ...]  # entropy of code use in bits, by level; log2 of the level's size at most
    # Gini coefficient of code use, by level; 0: every code equally often, towards 1: few codes have all items
    gini: tuple[float, ...]
    # squared error of what the published codes stand for, relative to the vectors' variance
    reconstruction_error: float
    # share of an item's 10 nearest items by text that share its first code, first two, and so on
    text_agreement: tuple[float, ...]
    # the same for the nearest by the people who interacted with both, or None without a log
    collaborative_agreement: tuple[float, ...] | None
    random_agreement: tuple[float, ...]  # the same for two random items

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able value; null for what cannot be measured, since JSON has no NaN."""
        return {
            name: [None if math.isnan(number) else number for number in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


GOOD = {
    "collision_rate_before": "below 0.1; above 0.3 many items get codes that are not the nearest",
    "collision_rate_after": "0: one item an ID",
    "moved_share": "below 0.1, as before it",
    "codes_used": "all of the level's; less than half: collapse",
    "entropy": "near log2 of the level's codes",
    "gini": "near 0; above 0.8 a few codes hold most items",
    "reconstruction_error": "below 0.5; 1: the codes say nothing of the vectors",
    "text_agreement": "many times random_agreement",
    "collaborative_agreement": "many times random_agreement",
    "random_agreement": "what two random items share: the measure of the two above",
}
"""What is good of each figure, and what is bad: rules of thumb."""


def problems(quality: Mapping[str, Any]) -> list[str]:
    """What is surely wrong with semantic IDs, by the figures of `SidQuality.to_json`; of healthy ones nothing."""

    def figures(name: str) -> list[float]:
        value = quality.get(name)
        listed = value if isinstance(value, list) else [value]
        return [float(value) if isinstance(value, int | float) else math.nan for value in listed]

    found = []
    if figures("collision_rate_after")[0] > 0:
        found.append("several items share one ID")
    for level, (used, size) in enumerate(zip(figures("codes_used"), figures("sizes"), strict=False), start=1):
        if used < size / 2 and used < figures("n_items")[0] / 2:
            found.append(f"level {level} uses {used:.0f} of its {size:.0f} codes")
    found += [f"few codes of level {i} hold most items" for i, one in enumerate(figures("gini"), start=1) if one > 0.8]
    if figures("reconstruction_error")[0] > 0.9:
        found.append("the codes say next to nothing of the vectors")
    text, random = figures("text_agreement")[0], figures("random_agreement")[0]
    if text < 2 * random:
        found.append("items that are alike by text share their first code hardly more than random ones")
    return found


def measure_quality(
    ids: SemanticIds,
    quantizer: Quantizer,
    vectors: Floats,
    text: Floats,
    user_item: csr_array | None = None,
    codes: Codes | None = None,
) -> SidQuality:
    """Measure the semantic IDs of N items, text and collaborative agreement on a sample of 2,000.

    Args:
        vectors: what was quantised, [N, D].
        text: text vectors [N, D_t], by whose cosine text neighbours are found.
        user_item: [U, N], 1 where a person interacted with an item in training, by whose columns' cosine collaborative
            neighbours are found.
        codes: int32 [N, L], before collisions were resolved; None: the quantiser's.
    """
    levels = len(quantizer.sizes)
    encoded = quantizer.encode(vectors) if codes is None else codes
    published = ids.codes[:, :levels]
    use = [np.bincount(ids.codes[:, level], minlength=size) for level, size in enumerate(ids.sizes)]
    return SidQuality(
        n_items=len(ids),
        sizes=ids.sizes,
        collision_rate_before=float(np.mean(shared_by(encoded, quantizer.sizes) > 1)),
        collision_rate_after=float(np.mean(shared_by(ids.codes, ids.sizes) > 1)),
        moved_share=float(np.mean((published != encoded).any(axis=1))),
        codes_used=tuple(int((counts > 0).sum()) for counts in use),
        entropy=tuple(_entropy(counts) for counts in use),
        gini=tuple(_gini(counts) for counts in use),
        reconstruction_error=_relative_error(vectors, quantizer.decode(published)),
        text_agreement=_text_agreement(ids, text),
        collaborative_agreement=None if user_item is None else _collaborative_agreement(ids, user_item),
        random_agreement=tuple(_pair_chance(ids.codes[:, :depth], ids.sizes) for depth in _depths(ids)),
    )


def nearest_items(vectors: Floats, rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k items of highest cosine to each of `rows`, itself left out: int64 [len(rows), k], in no order."""
    units = unit_rows(vectors)
    found = np.empty((len(rows), k), dtype=np.int64)
    for start in range(0, len(rows), 512):
        chunk = rows[start : start + 512]
        cosines = units[chunk] @ units.T
        cosines[np.arange(len(chunk)), chunk] = -np.inf
        found[start : start + 512] = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return found


def _text_agreement(ids: SemanticIds, text: Floats) -> tuple[float, ...]:
    """Share of the neighbours by text vector that share a prefix, by its length."""
    k, sample = min(NEIGHBOURS, len(ids) - 1), _drawn(np.arange(len(ids)))
    if k < 1:
        return (math.nan,) * len(_depths(ids))
    return _agreement(ids, np.repeat(sample, k), nearest_items(text, sample, k).ravel())


def _collaborative_agreement(ids: SemanticIds, user_item: csr_array) -> tuple[float, ...]:
    """The same for those that were interacted with by the same people; an item may have fewer of them."""
    counts = np.asarray(user_item.sum(axis=0)).ravel()
    items, neighbours, sample = [], [], _drawn(np.flatnonzero(counts))
    for chunk in np.array_split(sample, max(1, len(sample) // 128)):
        together = (user_item[:, chunk].T @ user_item).tocsr()  # [., N], people of both
        together.sort_indices()
        for row, item in enumerate(chunk):
            part = slice(together.indptr[row], together.indptr[row + 1])
            others = together.indices[part]
            cosines = together.data[part] / np.sqrt(counts[others])  # but for the item's own length, the same for all
            cosines[others == item] = -np.inf
            best = others[np.argsort(-cosines, kind="stable")[: min(NEIGHBOURS, len(others) - 1)]]
            items.append(np.full(len(best), item))
            neighbours.append(best)
    if not sum(map(len, items)):
        return (math.nan,) * len(_depths(ids))
    return _agreement(ids, np.concatenate(items), np.concatenate(neighbours))


def _drawn(candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most `_SAMPLE` of some items, [S], in their order."""
    return np.sort(np.random.default_rng(0).choice(candidates, size=min(_SAMPLE, len(candidates)), replace=False))


def _agreement(ids: SemanticIds, items: NDArray[np.int64], neighbours: NDArray[np.int64]) -> tuple[float, ...]:
    """Share of the pairs [P] whose items share a prefix, by its length."""
    shares = []
    for depth in _depths(ids):
        nodes = path_numbers(ids.codes[:, :depth], ids.sizes)
        shares.append(float(np.mean(nodes[items] == nodes[neighbours])))
    return tuple(shares)


def _depths(ids: SemanticIds) -> range:
    """Lengths of the prefixes that items can share."""
    return range(1, len(ids.sizes))


def _pair_chance(codes: Codes, sizes: Sequence[int]) -> float:
    """Probability that two different items, drawn at random, have the same codes."""
    n_items = len(codes)
    return float(np.sum(shared_by(codes, sizes) - 1) / (n_items * (n_items - 1))) if n_items > 1 else math.nan


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _gini(counts: NDArray[np.int64]) -> float:
    """Half the mean difference of two codes' counts, relative to the mean count."""
    ranks = np.arange(1, len(counts) + 1)
    return float(2 * (ranks * np.sort(counts)).sum() / (len(counts) * counts.sum()) - (len(counts) + 1) / len(counts))


def _relative_error(vectors: Floats, decoded: Floats) -> float:
    """||x - x'||^2 / ||x - mean||^2 over all items; 1 is what one code for everything would give."""
    spread = float(np.square(vectors - vectors.mean(axis=0), dtype=np.float64).sum())
    return float(np.square(vectors - decoded, dtype=np.float64).sum()) / spread if spread else 0.0
