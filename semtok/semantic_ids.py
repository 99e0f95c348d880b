"""`SemanticIds`: the codes of every item, one-to-one, and how items get them.

An item that has been given an ID keeps it for ever: `add_items` gives new items free codes and moves nobody.

Shapes: N items, D input width, L levels, V_l codes on level l.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.collisions import CostFunction, TakenPaths, resolve, shared_by
from genrec.semtok.quantizers.residual import Codes, Floats
from genrec.semtok.quantizers.state import CONFIG, read_part, write_part
from genrec.semtok.tables import read_table, require_types

if TYPE_CHECKING:
    from genrec.semtok.quantizers import Quantizer

FILE = "semantic_ids.parquet"


@dataclass(frozen=True)
class SemanticIds:
    """Codes by catalogue row.

    Attributes:
        item_ids: N external ids.
        codes: int32 [N, L], no two rows alike.
        sizes: codes on each level; one level more than the quantiser's where an extra level keeps items apart.

    Raises:
        InputError: ids or codes occur twice, or a code lies outside its level.
    """

    item_ids: tuple[str, ...]
    codes: Codes
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.codes.shape != (len(self.item_ids), len(self.sizes)) or self.codes.dtype != np.int32:
            raise InputError(
                f"semantic IDs: codes {self.codes.dtype} {self.codes.shape} for {len(self.item_ids)} items "
                f"and {len(self.sizes)} levels"
            )
        if len(set(self.item_ids)) < len(self.item_ids):
            twice = pl.Series(self.item_ids).filter(pl.Series(self.item_ids).is_duplicated())[0]
            raise InputError(f"semantic IDs: item {twice!r} occurs twice")
        outside = ((self.codes < 0) | (self.codes >= np.asarray(self.sizes))).any(axis=1)
        if outside.any():
            row = int(np.argmax(outside))
            raise InputError(
                f"semantic IDs: item {self.item_ids[row]!r} has codes {self.codes[row].tolist()}, "
                f"the levels have sizes {list(self.sizes)}"
            )
        if (alike := shared_by(self.codes, self.sizes) > 1).any():
            row = int(np.argmax(alike))
            raise InputError(
                f"semantic IDs: codes {self.codes[row].tolist()} of item {self.item_ids[row]!r} occur twice"
            )

    def __len__(self) -> int:
        return len(self.item_ids)

    def extend(self, item_ids: Sequence[str], codes: Codes) -> SemanticIds:
        """These IDs followed by those of new items; raises InputError where an id or its codes are taken."""
        return SemanticIds((*self.item_ids, *item_ids), np.concatenate([self.codes, codes]), self.sizes)

    def save(self, folder: Path) -> None:
        """Write `semantic_ids.parquet` and the part `sizes` of `config.json` into an existing folder."""
        frame = pl.DataFrame(
            {"item_id": self.item_ids, "codes": self.codes.tolist()},
            schema={"item_id": pl.String, "codes": pl.List(pl.Int32)},
        )
        scratch = folder / f".{FILE}.tmp"
        frame.write_parquet(scratch)
        scratch.replace(folder / FILE)
        write_part(folder, "sizes", list(self.sizes))

    @classmethod
    def load(cls, folder: Path) -> SemanticIds:
        """Read what `save` wrote; raises InputError where it is missing, foreign, or breaks the rules of this class."""
        path = folder / FILE
        sizes = read_part(folder, "sizes")
        if not isinstance(sizes, list) or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise InputError(f"{folder / CONFIG}: sizes {sizes!r} are not a list of positive numbers")
        frame = read_table(path, what="semantic IDs", may_be_empty=True)
        require_types(frame, path, {"item_id": pl.String, "codes": pl.List(pl.Int32)})
        lengths = frame["codes"].list.len()
        if (lengths != len(sizes)).any():
            row = int((lengths != len(sizes)).arg_max() or 0)
            raise InputError(f"{path}: row {row} has {lengths[row]} codes, {CONFIG} has {len(sizes)} levels")
        codes = frame["codes"].explode().to_numpy().astype(np.int32).reshape(len(frame), len(sizes))
        try:
            return cls(tuple(frame["item_id"]), codes, tuple(sizes))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def assign_ids(
    quantizer: Quantizer, item_ids: Sequence[str], vectors: Floats, codes: Codes | None = None, *, extra_level: int = 0
) -> SemanticIds:
    """IDs for a whole catalogue: the quantiser's codes with collisions resolved.

    Args:
        vectors: float32 [N, D].
        codes: int32 [N, L] of the quantiser's levels, where they are not its own of these vectors.
        extra_level: size of one more level that only keeps items apart, as in TIGER (arXiv 2305.05065); 0: none, unless
            the quantiser has fewer paths than there are items.
    """
    codes, sizes = quantizer.encode(vectors) if codes is None else codes, quantizer.sizes
    capacity = math.prod(sizes)
    if capacity < len(codes):  # twice the need, so that there is room for new items
        extra_level = max(extra_level, 2 * math.ceil(len(codes) / capacity))
    if extra_level:
        sizes = (*sizes, extra_level)
        codes = np.hstack([codes, np.zeros((len(codes), 1), dtype=np.int32)])
    return SemanticIds(tuple(item_ids), resolve(codes, sizes, _costs(quantizer, vectors, sizes)), sizes)


def add_items(ids: SemanticIds, quantizer: Quantizer, item_ids: Sequence[str], vectors: Floats) -> SemanticIds:
    """IDs for new items, one after the other: the nearest code on each level under which a path is still free.

    Args:
        ids: what has been published; stays as it is.
        vectors: float32 [n, D] of the new items.

    Raises:
        InputError: an item has an ID already, the quantiser is not the one of `ids`, or every path is taken.
    """
    if ids.sizes[: len(quantizer.sizes)] != quantizer.sizes:
        raise InputError(f"add-items: IDs with levels {ids.sizes}, a quantizer with {quantizer.sizes}")
    known = set(ids.item_ids)
    if repeated := next((item for item in item_ids if item in known), None):
        raise InputError(f"add-items: item {repeated!r} has a semantic ID already")
    tree = TakenPaths(ids.codes, ids.sizes)
    costs = _costs(quantizer, vectors, ids.sizes)
    codes = np.array([tree.take(row, costs) for row in range(len(vectors))], dtype=np.int32)
    return ids.extend(item_ids, codes.reshape(len(vectors), len(ids.sizes)))


def _costs(quantizer: Quantizer, vectors: Floats, sizes: Sequence[int]) -> CostFunction:
    latents = quantizer.latents(vectors)

    def costs(rows: NDArray[np.int64], prefix: Codes) -> Floats:
        if prefix.shape[1] < len(quantizer.sizes):
            return quantizer.code_costs(latents[rows], prefix)
        # The codes of an extra level mean nothing: the lowest free one is as good as any.
        return np.tile(np.arange(sizes[-1], dtype=np.float32), (len(rows), 1))

    return costs
