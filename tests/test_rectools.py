"""Our figures beside RecTools' on the same lists; skipped where RecTools is not installed, as it wants numpy below 2.

A data frame of `Recommendations` is what RecTools' metrics take, so no adapter stands between the two:

    calc_metrics({"ndcg": NDCG(10, divide_by_achievable=True)}, reco=lists.to_pandas(), interactions=held_back)
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

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
