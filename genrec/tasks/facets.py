"""`Facets`: the attributes that people name when they ask for something, read from a catalogue's columns.

Shapes: N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from genrec.semtok.catalog import Catalog

KINDS, BRANDS = ("categories", "category", "genres", "genre"), ("brand", "maker", "author", "artist", "store")
PRICE = "price"
CHEAP, MIDDLE, DEAR = "cheap", "mid-priced", "premium"
_FEW = 6  # items of a kind from which its prices can be told apart


@dataclass(frozen=True)
class Facets:
    """What is known of each item; empty where a catalogue does not say."""

    kinds: tuple[tuple[str, ...], ...]  # N tuples of categories, broad before narrow
    brands: tuple[str, ...]  # N names
    # N words: cheap, mid-priced or premium, by thirds among the items of the same narrowest kind
    prices: tuple[str, ...]

    @classmethod
    def of(cls, catalog: Catalog) -> Facets:
        """Read the columns named in this module, where there are any."""
        kinds = tuple(names_in(value) for value in _column(catalog, KINDS))
        brands = tuple(", ".join(names_in(value)) for value in _column(catalog, BRANDS))
        return cls(kinds, brands, _price_words(catalog, kinds))


def _column(catalog: Catalog, names: tuple[str, ...]) -> list[Any]:
    for name in names:
        if name in catalog.attributes.columns and catalog.attributes[name].dtype in (pl.String, pl.List(pl.String)):
            return catalog.attributes[name].to_list()
    return [None] * len(catalog)


def names_in(value: Any) -> tuple[str, ...]:
    """What a cell names, one thing or a list of them, without what is empty."""
    values = value if isinstance(value, list) else [value]
    return tuple(str(name).strip() for name in values if name and str(name).strip())


def _price_words(catalog: Catalog, kinds: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    words = [""] * len(catalog)
    if PRICE not in catalog.attributes.columns or not catalog.attributes[PRICE].dtype.is_numeric():
        return tuple(words)
    prices = catalog.attributes[PRICE].cast(pl.Float64).to_numpy()
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(np.isfinite(prices)).tolist():
        rows_of.setdefault(kinds[row][-1] if kinds[row] else "", []).append(row)
    for rows in rows_of.values():
        if len(rows) < _FEW:
            continue
        low, high = np.quantile(prices[rows], [1 / 3, 2 / 3])
        for row in rows:
            words[row] = CHEAP if prices[row] <= low else DEAR if prices[row] > high else MIDDLE
    return tuple(words)
