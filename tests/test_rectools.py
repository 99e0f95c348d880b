"""Our figures beside RecTools' on the same lists; skipped where RecTools is not installed, as it wants numpy below 2.

A data frame of `Recommendations` is what RecTools' metrics take, so no adapter stands between the two:

    calc_metrics({"ndcg": NDCG(10, divide_by_achievable=True)}, reco=lists.to_pandas(), interactions=held_back)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from worlds.small_shop import LITTLE

from genrec.data.cases import Cases
from genrec.data.frames import as_file
from genrec.data.interactions import Interactions
from genrec.data.sequences import Sequences
from genrec.evaluation.tables import KS, evaluate, padded
from genrec.recommendations import RankedRows, Recommendations
from genrec.semtok.catalog import Catalog
from genrec.semtok.columns import Columns

metrics = pytest.importorskip("rectools.metrics")
dataset = pytest.importorskip("rectools.dataset")
pandas = pytest.importorskip("pandas")

USERS, ITEMS = 200, 60


@pytest.fixture(scope="module")
def lists() -> Recommendations:
    """Random lists of 0 to 25 different items, a third of them short."""
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(USERS) < 0.3, rng.integers(0, 20, USERS), 25)
    rows = Sequences.from_lists([rng.permutation(ITEMS)[:length] for length in lengths])
    scores = np.concatenate([-np.sort(rng.random(length)) for length in lengths]).astype(np.float32)
    ids = tuple(str(1000 + row) for row in range(ITEMS))
    catalog = Catalog(ids, ids, pl.DataFrame(), np.zeros(ITEMS, dtype=np.bool_), integer_ids=True)
    return Recommendations.of(RankedRows(rows, scores, (None,) * USERS), catalog, range(USERS), "user_id")


@pytest.fixture(scope="module")
def cases() -> Cases:
    """One item held back from each user."""
    names = tuple(map(str, range(USERS)))
    histories = Sequences.from_lists([[0]] * USERS)
    targets = np.random.default_rng(1).integers(0, ITEMS, USERS).astype(np.int32)
    return Cases(names, names, histories, targets, None, np.zeros(USERS, dtype=np.bool_))


def test_recall_ndcg_mrr_and_coverage_are_rectools(lists: Recommendations, cases: Cases) -> None:
    """Of one relevant item, RecTools' recall and hit rate are the same; its NDCG divides by what can be achieved."""
    rows = evaluate({"ours": padded(lists.rows)}, cases, Sequences.from_lists([[0]]), ITEMS)
    ours = {(row["metric"], row["k"]): row["value"] for row in rows if row["slice"] == "all"}
    theirs = {}
    for k in KS:
        theirs |= {
            ("recall", k): metrics.Recall(k),
            ("hit rate", k): metrics.HitRate(k),
            ("ndcg", k): metrics.NDCG(k, divide_by_achievable=True),
            ("mrr", k): metrics.MRR(k),
            ("coverage", k): metrics.CatalogCoverage(k, normalize=True),
        }
    held_back = pandas.DataFrame(
        {"user_id": np.arange(USERS), "item_id": lists.catalog.public_ids(cases.targets).to_numpy()}
    )
    found = metrics.calc_metrics(
        theirs, reco=lists.to_pandas(), interactions=held_back, catalog=[1000 + row for row in range(ITEMS)]
    )
    assert 0.1 < found["recall", 10] < 0.5  # something is found, and not all
    for (metric, k), value in found.items():
        expected = ours["recall" if metric == "hit rate" else metric, k]
        assert value == pytest.approx(expected, abs=1e-12), (metric, k)


def test_its_dataset_is_a_log(lists: Recommendations) -> None:
    """`get_raw_interactions()` goes into `genrec.fit` with columns={"timestamp": "datetime"}."""
    events = pandas.DataFrame(
        {
            "user_id": [7, 3, 7, 7],
            "item_id": [1002, 1001, 1000, 1005],
            "weight": 1,
            "datetime": ["2024-01-03 10:00", "2024-01-01", "2024-01-02", "2024-01-05"],
        }
    )
    raw = dataset.Dataset.construct(events).get_raw_interactions()
    with as_file(raw, "interactions") as path:
        log = Interactions.from_file(path, lists.catalog, columns=Columns(timestamp="datetime"))
    histories = dict(zip(log.user_ids, (rows.tolist() for rows in log.histories), strict=True))
    assert histories == {"7": [0, 2, 5], "3": [1]}
    assert log.time_unit == "seconds"


@pytest.fixture(scope="module")
def shop(tiny_run: Path) -> Any:
    """The small shop's log as RecTools has it, with whole numbers for users, and an item feature of its own."""
    log = pl.read_csv(tiny_run.parent / "interactions.csv")
    events = pandas.DataFrame(
        {
            "user_id": log["user_id"].str.slice(1).cast(pl.Int64).to_list(),
            "item_id": log["item_id"].to_list(),
            "weight": 1,
            "datetime": pandas.to_datetime(log["timestamp"].to_list(), unit="s"),
        }
    )
    known = sorted(set(events["item_id"]))
    feature = [{"id": item, "feature": "shelf", "value": f"shelf {item % 3}"} for item in known]
    feature += [
        {"id": known[0], "feature": "shelf", "value": "window"},
        {"id": known[1], "feature": "weight", "value": 2.5},
    ]
    return dataset.Dataset.construct(events, item_features_df=pandas.DataFrame(feature), cat_item_features=["shelf"])


@pytest.fixture(scope="module")
def titles(tiny_run: Path) -> pl.DataFrame:
    items = pl.read_ndjson(tiny_run.parent / "items.jsonl")
    return items.select(pl.col("item_id").cast(pl.Int64), "title", "price")


def test_features_become_attributes(shop: Any, titles: pl.DataFrame) -> None:
    from genrec.cli.rectools import tables

    items, log = tables(shop, titles)
    assert items.columns[:3] == ["item_id", "title", "price"]
    assert set(items.columns[3:]) == {"shelf", "weight"}
    assert items["item_id"].to_list() == titles["item_id"].to_list()
    first, second, third = sorted(set(log["item_id"]))[:3]
    shelf = dict(items.select("item_id", "shelf").iter_rows())
    assert set(shelf[first].split(", ")) == {f"shelf {first % 3}", "window"}
    assert shelf[third] == f"shelf {third % 3}"
    assert dict(items.select("item_id", "weight").iter_rows())[second] == 2.5
    unknown = set(items["item_id"]) - set(log["item_id"])
    assert all(shelf[item] is None for item in unknown)
    assert len(log) == len(shop.interactions.df)


@pytest.mark.slow
def test_a_run_is_a_model(shop: Any, titles: pl.DataFrame, tmp_path: Path) -> None:
    """Its lists are those of `Recommender`; users that the dataset does not know get the list of an empty history."""
    from genrec.cli.rectools import GenrecModel

    model = GenrecModel(titles, tmp_path / "run", **LITTLE).fit(shop)
    ours = model.recommender
    users = [5, 2, 9]
    found = model.recommend([*users, 10_000], shop, k=4, filter_viewed=True)
    assert list(found.columns) == ["user_id", "item_id", "score", "rank"]
    asked = ours.recommend(users=users, k=4, filter_viewed=True, items_to_recommend=shop.item_id_map.external_ids)
    asked_cold = ours.recommend([[]], k=4, items_to_recommend=shop.item_id_map.external_ids)
    expected = [[item.item_id for item in items] for items in (*asked, *asked_cold)]
    assert [found[found.user_id == user].item_id.tolist() for user in (*users, 10_000)] == expected
    assert found.score.tolist() == pytest.approx([*asked.scores, *asked_cold.scores])
    some = shop.item_id_map.external_ids[10:20]
    few = model.recommend(users, shop, k=4, filter_viewed=False, items_to_recommend=some)
    assert set(few.item_id) <= set(some.tolist())
    assert few.groupby("user_id").size().tolist() == [4, 4, 4]
    near = model.recommend_to_items(some[:2], shop, k=3)
    lists = ours.similar(some[:2].tolist(), 3, items_to_recommend=shop.item_id_map.external_ids)
    assert near.item_id.tolist() == [item.item_id for items in lists for item in items]


@pytest.mark.slow
def test_rectools_cross_validates_it(shop: Any, titles: pl.DataFrame, tmp_path: Path) -> None:
    from rectools.model_selection import LastNSplitter, cross_validate

    from genrec.cli.rectools import GenrecModel

    told = cross_validate(
        shop, LastNSplitter(1), {"recall": metrics.Recall(10)},
        {"genrec": GenrecModel(titles, tmp_path / "run", **LITTLE)}, k=10, filter_viewed=True,
    )  # fmt: skip
    (row,) = told["metrics"]
    assert row["model"] == "genrec"
    assert 0.05 < row["recall"] < 0.95
