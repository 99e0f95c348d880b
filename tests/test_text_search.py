"""Search by words on a run of 60 items: the fused order against each component asked for everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from genrec import Recommender
from genrec.decoding.beam import score_all
from genrec.inference.serve.app import create_app
from genrec.inference.serve.config import ServeConfig
from genrec.inference.text_search import SearchWeights, TextSearch
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


def without_model(shop: Recommender, query: str, weights: SearchWeights) -> NDArray[np.float32]:
    words, search = shop._text.lexical.scores(query), shop._text
    part = words / words.max() if words.any() else words
    return weights.lexical * part + weights.dense * search.cosines(query)


@pytest.mark.parametrize("query", QUERIES[:2])
def test_scores_are_words_and_text_vectors(shop: Recommender, query: str) -> None:
    found = dict(shop.search(query, 60).pairs())
    wanted = without_model(shop, query, SearchWeights())
    np.testing.assert_allclose([found[item] for item in shop.catalog.item_ids], wanted, atol=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_query_of_unknown_words_finds_nothing_and_says_so(shop: Recommender) -> None:
    found = shop.search(["zzyqx wvvkj", "", shop.catalog.titles[0]], 3)
    assert [len(items) for items in found] == [0, 0, 3]
    assert found.reasons == ("no item has a word of the query", "no item has a word of the query", None)


@pytest.mark.parametrize("query", QUERIES)
def test_a_language_model_with_a_weight_is_added(shop: Recommender, query: str) -> None:
    weights = SearchWeights(1.0, 0.5, 0.1)
    log_probs = score_all(shop.engine, shop.trie, [search_prompt(shop.tokenizer, query)])[0]
    found = dict(shop.search(query, 60, weights=weights).pairs())
    wanted = without_model(shop, query, weights) + 0.1 * log_probs
    np.testing.assert_allclose([found[item] for item in shop.catalog.item_ids], wanted, atol=1e-3)


def test_the_language_model_is_not_asked_at_weight_0(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Recommender.from_pretrained(run, device="cpu")
    monkeypatch.setattr(shop.engine, "start", lambda prompts: pytest.fail("the language model was asked"))
    assert len(shop.search("mug", 5)[0]) == 5


@pytest.mark.parametrize("weights", [{"dense": -1.0}, {"lexical": float("nan")}, {"lexical": 0.0, "dense": 0.0}])
def test_weights_are_checked(weights: dict[str, float]) -> None:
    with pytest.raises(InputError, match="search weights"):
        SearchWeights(**weights)


def test_every_title_finds_its_item(shop: Recommender) -> None:
    found = [shop.search(title, 3)[0][0].item_id for title in shop.catalog.titles]
    same = [shop.catalog.titles[shop.catalog.row(item)] for item in found]
    assert same == list(shop.catalog.titles)


def test_half_a_character_is_a_question_mark(shop: Recommender) -> None:
    assert shop.search("\ud83d mug", 5).pairs() == shop.search("? mug", 5).pairs()


def test_the_language_model_alone_is_the_beam(shop: Recommender) -> None:
    log_probs = score_all(shop.engine, shop.trie, [search_prompt(shop.tokenizer, "mug")])[0]
    found = dict(shop.search("mug", 60, weights=SearchWeights(0, 0, 1)).pairs())
    np.testing.assert_allclose([found[item] for item in shop.catalog.item_ids], log_probs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("weights", [SearchWeights(), SearchWeights(1, 1, 1), SearchWeights(0, 0, 1)])
def test_filters_hold_for_every_component(shop: Recommender, weights: SearchWeights) -> None:
    """Though the words ask for what is not allowed."""
    teas = shop.filters({"categories": "Teas"}).allowed_mask()
    denied = [shop.catalog.item_ids[row] for row in np.flatnonzero(~teas)[:5]]
    query = shop.catalog.titles[int(np.flatnonzero(teas)[0])]
    found = [item for item, _ in shop.search(query, 60, items_to_recommend=~teas, deny=denied, weights=weights).pairs()]
    assert sorted(shop.catalog.rows(found).tolist()) == np.flatnonzero(~teas)[5:].tolist()
    assert shop.search(query, 5, items_to_recommend=np.zeros(60, dtype=np.bool_), weights=weights)[0] == []


def test_added_items_are_found_by_words_that_no_other_item_has(run: Path, tmp_path: Path) -> None:
    shop = Recommender.from_pretrained(shutil.copytree(run, tmp_path / "run"), device="cpu")
    assert not shop.search("quixotic zanfona", 1)[0]
    table = pl.DataFrame({"item_id": ["new"], "title": ["Quixotic zanfona"]})
    missing = [name for name in shop.catalog.attributes.columns if name not in table.columns]
    shop.add_items(table.hstack(shop.catalog.attributes[:1].select(missing)))
    assert [shop.search(words, 1)[0][0].item_id for words in ("quixotic zanfona", "zanfnoa")] == ["new", "new"]


def test_the_same_search_over_http(shop: Recommender) -> None:
    title = max(shop.catalog.titles, key=len)
    word = max(title.split(), key=len)
    query = title.replace(word, word[:2] + word[3] + word[2] + word[4:])  # a typing error
    with TestClient(create_app(shop, None, ServeConfig(run=Path("run"), timeout=60.0))) as client:
        items = client.post("/v1/search", json={"query": query, "k": 4}).json()["items"]
    found = shop.search(query, 4).pairs()
    assert [item["item_id"] for item in items] == [item for item, _ in found]
    assert shop.catalog.titles[shop.catalog.row(found[0][0])] == title


def test_vectors_of_another_catalogue_are_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    folder = copy / "vectors/text"
    vectors = ItemVectors.load(folder / "text.safetensors")
    ItemVectors(vectors.values[:59], vectors.source).save(folder / "text.safetensors")
    write_manifest(folder, check_folder(run / "vectors/text")["inputs"])
    with pytest.raises(InputError, match="vectors/text has 59 items, the catalogue 60"):
        TextSearch.of(Run(copy))
