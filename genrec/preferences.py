"""What a user likes, in words: a short text written from a history, to be encoded like the words of an item.

RecGOAT (Li et al. 2026, arXiv 2602.00682) lets a reasoning model write it from titles, categories and ratings. Here a
template does, which is free and the same on every machine:

    Likes Sponges & Scrubbers, Fasteners. Brands: Scotch-Brite, 3M. Prices: 6.49 to 19.99. Lately: Magic Eraser; …

`preference_vectors` encodes such texts; anything else that writes them is a `PreferenceWriter`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genrec.sequences import Sequences
from semtok.catalog import Catalog
from semtok.encoders import TextEncoder
from semtok.errors import InputError

_COMMON = 0.5  # a category that more than this share of all items has says nothing about a user


class PreferenceWriter(Protocol):
    """What writes preference texts."""

    def __call__(self, catalog: Catalog, histories: Sequences) -> list[str]:
        """One text for every history of catalogue rows, oldest first."""


@dataclass(frozen=True)
class PreferenceConfig:
    """What the template reads and how much it says.

    Attributes:
        categories: column of the item table with categories (text, or lists of text).
        brand: column with brands.
        price: column with prices.
        most: categories and brands that are named at most, each.
        titles: last titles that are named.
        max_characters: the text is cut to this length, at a space.
    """

    categories: str = "categories"
    brand: str = "brand"
    price: str = "price"
    most: int = 4
    titles: int = 5
    max_characters: int = 500

    def __post_init__(self) -> None:
        for name in ("most", "titles", "max_characters"):
            if getattr(self, name) < 1:
                raise InputError(f"--preferences.{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class PreferenceTemplate:
    """The template; columns that the item table lacks are passed over."""

    config: PreferenceConfig = PreferenceConfig()

    def __call__(self, catalog: Catalog, histories: Sequences) -> list[str]:
        words = _Words(catalog, self.config)
        return [_cut(words.describe(history.tolist()), self.config.max_characters) for history in histories]


def preference_vectors(
    catalog: Catalog,
    histories: Sequences,
    encoder: TextEncoder,
    writer: PreferenceWriter | None = None,
) -> NDArray[np.float32]:
    """Vectors [U, D_t] of the users' preference texts, by the encoder of the items' words.

    Args:
        histories: training histories of the U users.
        encoder: fitted already.
        writer: by default the template.
    """
    return encoder.encode((writer or PreferenceTemplate())(catalog, histories))


@dataclass(frozen=True)
class _Words:
    """The item table as the template reads it."""

    catalog: Catalog
    config: PreferenceConfig

    @cached_property
    def categories(self) -> list[tuple[str, ...]]:
        """Each item's categories without those that most items share."""
        lists = self._column(self.config.categories, _names)
        shares = Counter(name for names in lists for name in set(names))
        return [tuple(name for name in names if shares[name] <= _COMMON * len(lists)) for names in lists]

    @cached_property
    def brands(self) -> list[tuple[str, ...]]:
        return self._column(self.config.brand, _names)

    @cached_property
    def prices(self) -> list[tuple[float, ...]]:
        return self._column(self.config.price, _number)

    def describe(self, history: Sequence[int]) -> str:
        if not history:
            return ""
        parts = []
        if named := self._most_frequent(self.categories, history):
            parts.append(f"Likes {', '.join(named)}.")
        if named := self._most_frequent(self.brands, history):
            parts.append(f"Brands: {', '.join(named)}.")
        if prices := [price for row in history for price in self.prices[row]]:
            low, high = np.quantile(prices, (0.25, 0.75), method="nearest")
            parts.append(f"Prices: {low:g} to {high:g}.")
        newest = (self.catalog.titles[row].strip().rstrip(".") for row in reversed(history))
        if different := [title for title in dict.fromkeys(newest) if title]:
            parts.append(f"Lately: {'; '.join(different[: self.config.titles])}.")
        return " ".join(parts)

    def _most_frequent(self, values: Sequence[Sequence[str]], history: Sequence[int]) -> list[str]:
        """The values of most items of the history; ties go to the newest item's."""
        counts = Counter(value for row in reversed(history) for value in dict.fromkeys(values[row]))
        return [value for value, _ in counts.most_common(self.config.most)]

    def _column(self, name: str, read: Callable[[Any], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        if name not in self.catalog.attributes.columns:
            return [()] * len(self.catalog)
        values: Iterable[Any] = self.catalog.attributes[name].to_list()
        return [read(value) for value in values]


def _names(value: str | list[str | None] | None) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(str(name).strip() for name in values if name and str(name).strip())


def _number(value: object) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, (int, float)) and np.isfinite(value) else ()


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return text[: length + 1].rsplit(" ", 1)[0][:length]
