"""Preference texts of histories small enough to write by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec.preferences import PreferenceConfig, PreferenceTemplate, preference_vectors
from genrec.sequences import Sequences
from semtok.catalog import Catalog
from semtok.encoders import TfidfEncoder
from semtok.errors import InputError


def catalog(**columns: Any) -> Catalog:
    titles = ("Red polish", "Blue polish.", "Hose", "Tap", "")
    attributes = pl.DataFrame(
        columns
        or {
            "categories": [["Shop", "Nails"], ["Shop", "Nails", "Blue"], ["Shop", "Garden"], ["Shop", None], None],
            "brand": ["Opi", "Opi", "Aqua", "Aqua", None],
            "price": [8.0, 9.5, 20.0, None, 3.0],
        }
    )
    return Catalog(tuple("abcde"), titles, attributes, np.zeros(5, dtype=bool))


def text(*history: int, items: Catalog | None = None, **config: int) -> str:
    histories = Sequences.from_lists([history])
    return PreferenceTemplate(PreferenceConfig(**config))(items or catalog(), histories)[0]


def test_a_history_in_words() -> None:
    assert text(2, 0, 1) == (
        "Likes Nails, Blue, Garden. Brands: Opi, Aqua. Prices: 8 to 20. Lately: Blue polish; Red polish; Hose."
    )


def test_a_category_that_most_items_share_is_not_named() -> None:
    assert "Shop" not in text(0, 1, 2, 3)


def test_ties_go_to_the_newest() -> None:
    assert text(0, 2).startswith("Likes Garden, Nails. Brands: Aqua, Opi.")
    assert text(2, 0).startswith("Likes Nails, Garden. Brands: Opi, Aqua.")


def test_prices_are_a_band_without_the_extremes() -> None:
    items = catalog(price=[1.0, 10.0, 11.0, 12.0, 99.0])
    assert text(0, 1, 2, 3, 4, items=items).startswith("Prices: 10 to 12. Lately:")


def test_as_much_as_is_asked_for() -> None:
    assert text(0, 1, 2, most=1, titles=1) == "Likes Nails. Brands: Opi. Prices: 8 to 20. Lately: Hose."
    assert text(0, 0, 0, 1, titles=2).endswith("Lately: Blue polish; Red polish.")  # a title once
    whole = text(0, 1, 2)
    for length in (1, 10, 30, len(whole), 999):
        cut = text(0, 1, 2, max_characters=length)
        assert len(cut) <= length
        assert whole.startswith(cut)
        assert cut == whole or whole[len(cut)] == " " or " " not in whole[: length + 1]


def test_what_is_missing_is_passed_over() -> None:
    assert text() == ""
    assert text(4) == "Prices: 3 to 3."
    assert text(0, 3, items=catalog(colour=["red"] * 5)) == "Lately: Tap; Red polish."
    assert text(0, items=catalog(categories=["Nails", "Hair", "Feet", "Hands", "Hair"])).startswith("Likes Nails.")


def test_the_same_texts_every_time() -> None:
    histories = Sequences.from_lists([[0, 1], [], [2, 3, 4]])
    first, second = (PreferenceTemplate()(catalog(), histories) for _ in range(2))
    assert first == second
    assert len(first) == 3


def test_vectors_are_of_the_texts_in_order() -> None:
    histories = Sequences.from_lists([[2, 3], [0, 1], [0]])
    encoder = TfidfEncoder(8)
    encoder.fit(catalog().texts())
    vectors = preference_vectors(catalog(), histories, encoder)
    np.testing.assert_array_equal(vectors, encoder.encode(PreferenceTemplate()(catalog(), histories)))
    assert vectors[1] @ vectors[2] > vectors[0] @ vectors[2]

    def writer(items: Catalog, of: Sequences) -> list[str]:
        return ["hose"] * len(of)

    assert (preference_vectors(catalog(), histories, encoder, writer) == encoder.encode(["hose"])).all()


@pytest.mark.parametrize("name", ["most", "titles", "max_characters"])
def test_bad_options_are_named(name: str) -> None:
    with pytest.raises(InputError, match=f"--preferences.{name} 0: must be at least 1"):
        PreferenceConfig(**{name: 0})
