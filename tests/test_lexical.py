"""BM25 over a catalogue's words: the formula by hand, and what counts as the same word."""

from __future__ import annotations

from collections import Counter
from math import log

import numpy as np
import polars as pl
import pytest

from genrec.inference.lexical import MISSPELT, TITLE, LexicalIndex, fold
from genrec.semtok.catalog import Catalog

TITLES = ("Green tea", "Black tea tins", "Crème for dry skin", "Skinny jeans", "Tea", "", "Moisturizer for skin")
NOTES = ("leaves of spring", "tea tea tea from the hills", "for hands", "blue", "a whole tea", "", "daily, for skin")


def catalog(titles: tuple[str, ...] = TITLES, notes: tuple[str, ...] = NOTES) -> Catalog:
    ids = tuple(map(str, range(len(titles))))
    table = pl.DataFrame({"note": notes}, schema={"note": pl.String})
    return Catalog(ids, titles, table, np.zeros(len(ids), dtype=np.bool_))


@pytest.fixture(scope="module")
def index() -> LexicalIndex:
    return LexicalIndex(catalog())


def by_hand(query: list[str]) -> list[float]:
    """The formula of the module over words that need no folding here but those given."""
    folded = {"leaves": "leave", "tins": "tin", "crème": "creme", "hills": "hill", "hands": "hand"}
    folded |= {"jeans": "jean"}
    shop = catalog()
    texts = [f"{text} {title}" if TITLE == 2 else text for text, title in zip(shop.texts(), shop.titles, strict=True)]
    cleaned = [text.lower().replace(".", " ").replace(":", " ").replace(",", " ").split() for text in texts]
    counts = [Counter(folded.get(word, word) for word in words) for words in cleaned]
    mean = sum(sum(count.values()) for count in counts) / len(counts)
    scores = []
    for count in counts:
        norm, score = 1.2 * (0.25 + 0.75 * sum(count.values()) / mean), 0.0
        for word in query:
            held = sum(word in other for other in counts)
            score += log(1 + (len(counts) - held + 0.5) / (held + 0.5)) * count[word] / (count[word] + norm)
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", [["tea"], ["green", "tea"], ["dry", "skin"], ["creme", "leave", "hill"]])
def test_scores_are_the_formula(index: LexicalIndex, query: list[str]) -> None:
    np.testing.assert_allclose(index.scores(" ".join(query)), by_hand(query), rtol=1e-5)


@pytest.mark.parametrize(
    ("query", "same"),
    [
        ("TEAS", "tea"), ("crème", "creme"), ("cre\u0300me", "creme"), ("moisturisers", "moisturizer"),
        ("tea tea, tea!", "tea"), ("tea’s", "tea"), ("tea xylophone", "tea"),
    ],
)  # fmt: skip
def test_the_same_words(index: LexicalIndex, query: str, same: str) -> None:
    assert index.scores(same).any()
    np.testing.assert_array_equal(index.scores(query), index.scores(same))


@pytest.mark.parametrize(("typo", "meant"), [("balck", "black"), ("grene", "green"), ("mositurzier", "moisturizer")])
def test_a_typing_error_counts_less_than_the_word(index: LexicalIndex, typo: str, meant: str) -> None:
    np.testing.assert_allclose(index.scores(typo), MISSPELT * index.scores(meant), rtol=1e-6)


def test_of_words_that_may_be_meant_the_common_one_counts_most(index: LexicalIndex) -> None:
    """One letter lies between "skinn" and "skin", of two items, as between it and "skinny", of one."""
    skin, skinny = index.scores("skin"), index.scores("skinny")
    np.testing.assert_allclose(index.scores("skinn"), MISSPELT * (2 * skin + skinny) / 3, rtol=1e-6)


@pytest.mark.parametrize("query", ["", "?!", "xylophone", "taa", "12345", "ブルー"])
def test_unknown_words_score_nothing(index: LexicalIndex, query: str) -> None:
    assert not index.scores(query).any()


@pytest.mark.parametrize("titles", [(), ("",), ("", "")])
def test_a_catalogue_without_words(titles: tuple[str, ...]) -> None:
    scores = LexicalIndex(catalog(titles, ("",) * len(titles))).scores("tea")
    assert scores.tolist() == [0.0] * len(titles)


def test_endings() -> None:
    words = ("berries", "dishes", "glasses", "bus", "glass", "gas", "colours", "organised", "women's", "o'clock")
    assert [fold(word) for word in words] == [
        "berry", "dish", "glass", "bus", "glass", "gas", "colour", "organized", "women", "oclock",
    ]  # fmt: skip
