"""Search by words on a run of 60 items: two scorers in one order, against both of them asked for everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from genrec import Recommender
from genrec.decoding.beam import score_all
from genrec.inference import text_search as module
from genrec.inference.text_search import TextSearch
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_folder, write_manifest
from genrec.semtok.vectors import ItemVectors
from genrec.tasks.writer import search_prompt

QUERIES = ["stone mug", "tea for the morning, green", "", "zzzz", "<a_1> <b_2>"]


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Path:
    return tiny_run


@pytest.fixture(scope="module")
def shop(run: Path) -> Recommender:
    return Recommender.from_pretrained(run, device="cpu")


@pytest.mark.parametrize("query", QUERIES)
def test_scores_are_the_two_voices(shop: Recommender, query: str) -> None:
    log_probs = score_all(shop.ranker.scorer, shop.trie, [search_prompt(shop.tokenizer, query)])[0]
    scores = log_probs + shop._text.cosines(query) / module.TEMPERATURE
    found = dict(shop.search(query, 60).pairs())
    assert len(found) == 60
    np.testing.assert_allclose([found[item] for item in shop.catalog.item_ids], scores, rtol=0, atol=2e-3)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_every_title_finds_its_item(shop: Recommender) -> None:
    found = [shop.search(title, 3)[0][0].item_id for title in shop.catalog.titles]
    same = [shop.catalog.titles[shop.catalog.row(item)] for item in found]
    assert same == list(shop.catalog.titles)


def test_half_a_character_is_a_question_mark(shop: Recommender) -> None:
    assert shop.search("\ud83d mug", 5).pairs() == shop.search("? mug", 5).pairs()


def test_without_the_text_vectors_it_is_the_beam(shop: Recommender) -> None:
    log_probs = score_all(shop.ranker.scorer, shop.trie, [search_prompt(shop.tokenizer, "mug")])[0]
    found = dict(shop.search("mug", 60, by_text_vectors=False).pairs())
    np.testing.assert_allclose([found[item] for item in shop.catalog.item_ids], log_probs, rtol=0, atol=2e-3)


def test_filters_hold_for_both_voices(shop: Recommender) -> None:
    """Though the words ask for what is not allowed."""
    teas = shop.filters({"categories": "Teas"}).allowed_mask()
    denied = [shop.catalog.item_ids[row] for row in np.flatnonzero(~teas)[:5]]
    query = shop.catalog.titles[int(np.flatnonzero(teas)[0])]
    found = [item for item, _ in shop.search(query, 60, items_to_recommend=~teas, deny=denied).pairs()]
    assert sorted(shop.catalog.rows(found).tolist()) == np.flatnonzero(~teas)[5:].tolist()
    assert shop.search(query, 5, items_to_recommend=np.zeros(60, dtype=np.bool_))[0] == []


def test_vectors_of_another_catalogue_are_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    folder = copy / "vectors/text"
    vectors = ItemVectors.load(folder / "text.safetensors")
    ItemVectors(vectors.values[:59], vectors.source).save(folder / "text.safetensors")
    write_manifest(folder, check_folder(run / "vectors/text")["inputs"])
    with pytest.raises(InputError, match="vectors/text has 59 items, the catalogue 60"):
        TextSearch.of(Run(copy))
