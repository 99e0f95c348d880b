"""Dialogues as people type them, over the sample shop: what each turn means, and that a question changes nothing.

`tests/dialogues/sample_shop.yaml` tells the keys of a turn; `scripts/bench_dialogues.py` judges them. CI keeps the
shares from falling, over turns that rules were written with and turns that were held out together.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import get_args

import pytest

from genrec.cli.main import main
from genrec.data.sample_shop import make_sample_shop
from genrec.inference.chat.conversation import Conversation
from genrec.inference.chat.reading import Act
from genrec.inference.chat.understanding import RulesReader
from genrec.inference.recommender import Recommender

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
bench_dialogues = importlib.import_module("bench_dialogues")

DIALOGUES = Path(__file__).parent / "dialogues/sample_shop.yaml"
KEYS = {"say", "act", "kind", "wish", "where", "has", "order", "liked", "refused", "unwanted", "keeps", "says", "cards"}
LEAST = {"acts": 0.94, "conditions": 0.94, "understood": 0.92}  # figures of the day they were written, less a turn
TINY = [
    "--text.encoder=tfidf", "--sasrec.width=16", "--lrurec.width=16",
    "--collaborative.epochs=1", "--aligner.training.epochs=1",
    "--lm.epochs=1", "--lm.width=16", "--lm.text_vocabulary=300", "--lm.dense_width=16", "--lm.valid_cases=50",
    "--topk.k=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """All 400 items of the shop; the turns are about words, so what a model learned hardly matters."""
    folder = tmp_path_factory.mktemp("shop")
    make_sample_shop(0, users=150).write(folder)
    (folder / "my.yaml").write_text(
        f"data: {{items: {folder}/items.jsonl, interactions: {folder}/interactions.csv}}\nrun: {folder}/run\n"
    )
    assert main(["fit", str(folder / "my.yaml"), *TINY]) == 0
    return Recommender.from_pretrained(folder / "run", device="cpu")


@pytest.fixture(scope="module")
def results(shop: Recommender) -> list[bench_dialogues.Result]:
    return list(bench_dialogues.hold(bench_dialogues.read_dialogues(DIALOGUES), shop, RulesReader(shop.catalog)))


def test_turns_are_read_as_they_are_meant(results: list[bench_dialogues.Result]) -> None:
    shares = bench_dialogues.figures(results)
    wrong = [f"{result.dialogue} | {result.said} | {result.wrong_act} | {result.wrong}" for result in results
             if not result.understood]  # fmt: skip
    assert shares["turns"] >= 250
    assert {name for name, least in LEAST.items() if shares[name] < least} == set(), "\n".join(wrong)


def test_a_turn_that_asks_or_is_not_understood_changes_nothing(results: list[bench_dialogues.Result]) -> None:
    """Whatever was meant: what was read as a question leaves history, wish, conditions and refusals alone."""
    asked = [result for result in results if result.asks]
    assert len(asked) > 90
    assert [result.said for result in asked if not result.kept] == []


def test_every_file_of_dialogues_speaks_of_acts_that_there_are() -> None:
    for path in sorted(DIALOGUES.parent.glob("*.yaml")):
        for dialogue in bench_dialogues.read_dialogues(path):
            for turn in dialogue["turns"]:
                assert set(turn["act"].split("|")) <= set(get_args(Act)), turn
                assert turn.keys() <= KEYS, turn


def test_facts_are_the_catalogue_s_own(shop: Recommender) -> None:
    talk = Conversation(shop)
    talk.say("coffee beans")
    first = shop.catalog.row(talk.state.shown[0])
    price, brand = shop.catalog.attributes["price"][first], shop.catalog.attributes["brand"][first]
    assert f"costs {price:.2f}" in talk.say("how much is the first one?").text
    assert str(brand) in talk.say("what brand is it?").text
    assert "doesn't say" in talk.say("how heavy is it?").text
    compared = talk.say("whats the difference between 1 and 2").table
    assert [row[0] for row in compared[1:]] == [
        name for name in shop.catalog.attributes.columns
        if str(shop.catalog.attributes[name][first])
        != str(shop.catalog.attributes[name][shop.catalog.row(talk.state.shown[1])])
    ]  # fmt: skip


def test_sorting_and_letting_go(shop: Recommender) -> None:
    talk = Conversation(shop)
    talk.say("frying pans")
    sorted_by_price = talk.say("the cheapest one please")
    prices = [shop.catalog.attributes["price"][shop.catalog.row(card.item_id)] for card in sorted_by_price.cards]
    pans = [
        price for price, kinds in shop.catalog.attributes.select("price", "categories").iter_rows()
        if "Frying pans" in kinds
    ]  # fmt: skip
    assert prices == sorted(pans)[: len(prices)]
    relaxed = talk.say("under 1")
    assert relaxed.cards
    assert relaxed.state.relaxed == {"price": (None, 1.0)}
    assert "price" not in relaxed.state.where
    back = talk.put_back("price")
    assert back.state.where["price"] == (None, 1.0)
    assert all(shop.catalog.attributes["price"][shop.catalog.row(card.item_id)] <= 1 for card in back.cards)
