"""The sample shop: believable, the same from a seed, lawful, and with an oracle that is exact."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from genrec.data import sample_shop as laws
from genrec.data import sample_shop_items
from genrec.data.interactions import Interactions
from genrec.data.sample_shop import ARRIVAL_TIME, SampleShop, make_sample_shop
from genrec.data.sequences import Sequences
from genrec.data.splits import leave_last_out
from genrec.evaluation.baselines import ItemKnn, Markov, Popularity
from genrec.evaluation.metrics import rank_of_target, recall, top_k
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError


@pytest.fixture(scope="module")
def shop() -> SampleShop:
    return make_sample_shop(0)


@pytest.fixture(scope="module")
def small_shop() -> SampleShop:
    return make_sample_shop(3, users=40, items=60)


def _without_last(histories: Sequences, count: int) -> Sequences:
    return Sequences.from_lists([history[:-count] for history in histories])


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make_sample_shop(seed, users=50, items=80).write(tmp_path / name)
    for file in ("items.jsonl", "interactions.csv"):
        first, same, other = ((tmp_path / name / file).read_bytes() for name in ("a", "b", "c"))
        assert first == same
        assert first != other


def test_the_files_are_what_genrec_reads(shop: SampleShop, tmp_path: Path) -> None:
    shop.write(tmp_path)
    catalog = Catalog.from_file(tmp_path / "items.jsonl")
    log = Interactions.from_file(tmp_path / "interactions.csv", catalog)
    assert len(catalog) == 400
    assert log.time_unit == "seconds"
    assert len(log.user_ids) == 3000
    number = [int(user[1:]) for user in log.user_ids]
    assert [history.tolist() for history in log.histories] == [shop.histories[n].tolist() for n in number]
    split = leave_last_out(log)
    assert 0.04 < split.test.cold.mean() < 0.12
    assert set(split.test.targets[split.test.cold]) <= set(np.flatnonzero(shop.arrival))
    assert not split.valid.cold.any()
    with open(tmp_path / "interactions.csv", newline="") as table:
        times = [int(line["timestamp"]) for line in csv.DictReader(table)]
    assert times == sorted(times)


def test_items_are_believable(shop: SampleShop) -> None:
    records = shop.items.records
    assert len({record["item_id"] for record in records}) == len({record["title"] for record in records}) == 400
    for record in records:
        assert set(record) == {"item_id", "title", "brand", "categories", "description", "price"}
        assert record["title"].startswith(record["brand"])
        assert 2 <= record["description"].count(" ") < 60
        assert 0.9 < record["price"] < 1000
    departments = Counter(record["categories"][0] for record in records)
    assert len(departments) >= 8
    assert json.dumps(records).isprintable()


def test_words_name_real_shelves_and_no_two_shelves_follow_each_other() -> None:
    words = yaml.safe_load(Path(sample_shop_items.__file__).with_name("sample_shop.yaml").read_text(encoding="utf-8"))
    then = {shelf: set(goods["then"]) for one in words.values() for shelf, goods in one["products"].items()}
    assert sum(len(one["products"]) for one in words.values()) == len(then)
    for shelf, followers in then.items():
        assert followers
        assert followers <= set(then)
        assert all(shelf not in then[follower] for follower in followers)
    for department in words.values():
        assert {tier for tier, _ in department["brands"].values()} == set(sample_shop_items.TIERS)


def test_histories_are_lawful(shop: SampleShop) -> None:
    lengths = shop.histories.lengths
    assert (lengths.min(), lengths.max()) == (laws.SHORTEST, laws.LONGEST)
    for user, history in enumerate(shop.histories):
        times = shop.times[shop.histories.offsets[user] : shop.histories.offsets[user + 1]]
        assert len(set(history)) == len(history)
        assert (np.diff(times) > 0).all()
        assert times[-2] < ARRIVAL_TIME <= times[-1]
        assert not shop.arrival[history[:-1]].any()
    assert shop.arrival.sum() == 20
    assert set(shop.histories.values) == set(range(400))


def test_popularity_has_a_long_tail(shop: SampleShop) -> None:
    counts = np.sort(np.bincount(shop.histories.values, minlength=400))[::-1]
    assert 0.35 < counts[:80].sum() / counts.sum() < 0.65
    assert counts[0] > 6 * np.median(counts)


def _chance(shop: SampleShop, item: int, past: list[int], taste: int, after: bool) -> float:
    """p(item | past, taste), straight from the module's description."""

    def weight(x: int) -> float:
        items = shop.items
        if x in past or (shop.arrival[x] and not after):
            return 0.0
        demand = 1.0
        for age, strength in enumerate(laws.FOLLOWS):
            if age < len(past) and items.follows[items.shelf[past[-1 - age]], items.shelf[x]]:
                demand += strength
        if past and shop.companion[past[-1]] == x:
            demand += laws.ACCOMPANIES
        if items.lasting[x] and any(items.shelf[y] == items.shelf[x] for y in past):
            demand *= laws.OWNED
        return demand * float(shop.liking[x, taste])

    return weight(item) / sum(weight(x) for x in range(len(shop.items)))


def test_the_oracle_is_bayes_rule(small_shop: SampleShop) -> None:
    histories = [[], *[history[:-1].tolist() for history in small_shop.histories.take([0, 1, 2]).last(7)]]
    arrival = int(np.flatnonzero(small_shop.arrival)[0])
    histories.append([*histories[1], arrival])
    for after in (True, False):
        found = small_shop.oracle_scores(Sequences.from_lists(histories), after_arrivals=after)
        for history, scores in zip(histories, found, strict=True):
            weights = []
            for taste, share in enumerate(small_shop.taste_share):
                steps = [
                    _chance(small_shop, x, history[:t], taste, bool(small_shop.arrival[x]))
                    for t, x in enumerate(history)
                ]
                weights.append(share * math.prod(steps))
            for x in (arrival, 5, 17, 42, *history[:1]):
                chances = [_chance(small_shop, x, history, taste, after) for taste in range(len(weights))]
                expected = sum(w * c for w, c in zip(weights, chances, strict=True)) / sum(weights)
                assert math.exp(scores[x]) == pytest.approx(expected, rel=1e-5)
        assert np.exp(found.astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_oracle_reaches_the_recall_that_its_probabilities_promise(shop: SampleShop) -> None:
    histories, targets = _without_last(shop.histories, 1), np.array([history[-1] for history in shop.histories])
    rows, scores = top_k(shop.oracle_scores(histories), 10)
    promised = np.exp(scores.astype(float)).sum(axis=1)
    reached = recall(rank_of_target(rows, targets), 10)
    standard_error = math.sqrt((promised * (1 - promised)).sum()) / len(promised)
    assert abs(reached.mean() - promised.mean()) < 3 * standard_error


def test_taste_and_order_both_matter(shop: SampleShop) -> None:
    """Recall@10 on the last purchases: popularity < Markov and item-kNN < the best possible, which is far from 1."""
    train, histories = _without_last(shop.histories, 2), _without_last(shop.histories, 1)
    targets = np.array([history[-1] for history in shop.histories])
    models = {model.__name__: model.fit(train, 400).score for model in (Popularity, Markov, ItemKnn)}
    reached = {}
    for name, score in {**models, "oracle": shop.oracle_scores}.items():
        reached[name] = recall(rank_of_target(top_k(score(histories), 10, histories)[0], targets), 10)
    overall = {name: hits.mean() for name, hits in reached.items()}
    assert 0.05 < overall["Popularity"] < 0.15
    assert 2 * overall["Popularity"] < min(overall["Markov"], overall["ItemKnn"])
    assert 1.4 * max(overall["Markov"], overall["ItemKnn"]) < overall["oracle"]
    assert 0.35 < overall["oracle"] < 0.55
    cold = shop.arrival[targets]
    assert reached["Markov"][cold].sum() == reached["ItemKnn"][cold].sum() == 0
    assert reached["oracle"][cold].mean() > 0.3


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="users: 0"):
        make_sample_shop(users=0)
    with pytest.raises(InputError, match="seed: -1"):
        make_sample_shop(-1)
    for items in (10, 100_000):
        with pytest.raises(InputError, match=f"items: {items}; the sample shop can have 56 to "):
            make_sample_shop(items=items)
