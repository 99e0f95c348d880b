"""genrec from Python: data frames in, lists and figures out as data frames, on the shop of 60 items."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from worlds.small_shop import LITTLE

import genrec
from genrec import Evaluation, InputError, Recommender
from genrec.cli.python import INPUT
from genrec.data.frames import MARK
from genrec.semtok.folders import hash_file

pd = pytest.importorskip("pandas")
COLUMNS = {"item_id": "book_id", "title": "name", "user_id": "reader", "timestamp": "when"}


def foreign(shop: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The shop's tables with whole numbers for ids, under other names."""
    books = pl.read_ndjson(shop / "items.jsonl").with_columns(pl.col("item_id").cast(pl.Int64))
    ratings = pl.read_csv(shop / "interactions.csv").with_columns(pl.col("user_id").str.slice(1).cast(pl.Int64))
    names = {ours: theirs for ours, theirs in COLUMNS.items() if ours in books.columns}
    return books.rename(names), ratings.rename({one: COLUMNS[one] for one in ("item_id", "user_id", "timestamp")})


@pytest.fixture(scope="module")
def books(tiny_run: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    return foreign(tiny_run.parent)


@pytest.fixture(scope="module")
def fitted(books: tuple[pl.DataFrame, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("python") / "run"
    genrec.fit(*books, run=run, columns=COLUMNS, verbose=False, **LITTLE)
    return run


@pytest.fixture(scope="module")
def shop(tiny_run: Path) -> Recommender:
    return Recommender.from_pretrained(tiny_run)


def as_pandas(table: pl.DataFrame) -> Any:
    return pd.DataFrame(table.to_dict(as_series=False))


class Arrow:
    """What any library hands over that is neither polars nor pandas."""

    def __init__(self, table: pl.DataFrame) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)  # type: ignore[attr-defined]


@pytest.mark.parametrize("of", [as_pandas, Arrow, pl.DataFrame.lazy], ids=["pandas", "arrow", "lazy"])
def test_every_kind_of_frame_is_the_same_run(
    of: Callable[[pl.DataFrame], Any], books: tuple[pl.DataFrame, pl.DataFrame], fitted: Path
) -> None:
    """No stage is out of date: the frames became the same bytes."""
    before = {path: hash_file(path) for path in fitted.rglob("*") if path.is_file()}
    again = genrec.fit(*map(of, books), run=fitted, columns=COLUMNS, verbose=False, **LITTLE)
    assert len(again.catalog) == 60
    assert {path: hash_file(path) for path in fitted.rglob("*") if path.is_file()} == before


def test_a_pandas_frame_keeps_what_polars_would_have() -> None:
    from genrec.data.frames import as_file

    table = pd.DataFrame(
        {
            "item_id": [1, 2],
            "title": ["A", None],
            "tags": [["x"], ["y", "z"]],
            "price": [1.5, None],
            "many": pd.array([1, None], dtype="Int64"),
            "kind": pd.Categorical(["u", "v"]),
            "since": pd.to_datetime(["2024-01-01", None]),
        }
    )
    with as_file(table, "items") as path:
        read = pl.read_parquet(path)
    assert not path.exists()
    assert [str(one) for one in read.dtypes[:6]] == ["Int64", "String", "List(String)", "Float64", "Int64", "String"]
    assert read.drop("since").rows() == [(1, "A", ["x"], 1.5, 1, "u"), (2, None, ["y", "z"], None, None, "v")]
    assert read["since"].dtype.is_temporal()


def test_ids_that_were_whole_numbers_come_back_as_such(fitted: Path) -> None:
    recommender = Recommender.from_pretrained(fitted)
    lists = recommender.recommend(users=[3, 7], k=4, where={"price": {"max": 50}})
    table = lists.to_polars()
    assert table.columns == ["user_id", "rank", "item_id", "title", "score", "reason"]
    assert table["user_id"].to_list() == [3] * 4 + [7] * 4
    assert table["rank"].to_list() == [1, 2, 3, 4] * 2
    assert table["item_id"].dtype == pl.Int64
    assert lists[1][2] == (table["item_id"][6], table["title"][6], pytest.approx(table["score"][6]))
    assert pl.DataFrame(lists.to_pandas().to_dict("list"))["item_id"].to_list() == table["item_id"].to_list()
    item = table["item_id"][0]
    by_text, by_number, by_numpy = (recommender.similar(one, 3) for one in (str(item), item, np.int64(item)))
    assert by_text[0] == by_number[0] == by_numpy[0]


def test_a_user_is_the_history_in_the_log(fitted: Path, books: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    recommender = Recommender.from_pretrained(fitted)
    log = books[1].filter(pl.col("reader") == 5).sort("when", maintain_order=True)["book_id"].to_list()
    by_user, by_history = recommender.recommend(users=[5], k=60), recommender.recommend(histories=[log], k=60)
    assert by_user[0] == by_history[0]
    assert not {item.item_id for item in by_user[0]} & set(log)
    again = recommender.recommend(users=[5], k=60, filter_viewed=False)
    assert {item.item_id for item in again[0]} >= set(log)
    with pytest.raises(InputError, match="2 users are not in the run's log, first 'nobody'"):
        recommender.recommend(users=[5, "nobody", "other"])
    for wrong in ({}, {"users": [5], "histories": [[]]}):
        with pytest.raises(InputError, match=r"recommend takes users=\[...\] of the run's log, or histories="):
            recommender.recommend(**wrong)  # type: ignore[arg-type]


def test_only_the_items_to_recommend(shop: Recommender) -> None:
    some = list(shop.catalog.item_ids[10:14])
    found = shop.recommend(histories=[[], some[:1]], k=10, items_to_recommend=some)
    assert [{item.item_id for item in items} for items in found] == [set(some), set(some[1:])]
    assert found.reasons[1] == "3 of 60 items are allowed, 3 of them were found; 10 were asked for"
    near = shop.similar([some[0], "10050"], 10, items_to_recommend=some)
    assert [{item.item_id for item in items} for items in near] == [set(some[1:]), set(some)]
    assert {item.item_id for item in shop.search("tea", 10, items_to_recommend=some)[0]} == set(some)


def test_similar_and_search_take_several(shop: Recommender) -> None:
    both = shop.similar(["10001", "10002"], 5)
    assert [both[0], both[1]] == [shop.similar("10001", 5)[0], shop.similar("10002", 5)[0]]
    assert both.to_polars().columns[0] == "target_item_id"
    words = shop.search(["tea", "mug"], 3)
    assert words[1] == shop.search("mug", 3)[0]
    assert words.to_polars()["query"].to_list() == ["tea"] * 3 + ["mug"] * 3
    for ask in (shop.similar, shop.search):
        with pytest.raises(InputError, match="k must be at least 1, not 0"):
            ask("10001", 0)


def test_lists_show_as_a_small_table(shop: Recommender) -> None:
    lists = shop.recommend(users=["u00001", "u00002"], k=2)
    text = repr(lists)
    assert text.splitlines()[0] == "2 lists, 4 items"
    assert all(item.title in text for items in lists for item in items)
    assert "reason" not in text
    assert "<table" in lists._repr_html_()
    assert "<title>" not in lists._repr_html_()
    short = shop.recommend(users=["u00001"] * 5, k=100)
    assert repr(short).count("100 were asked for") == 3
    assert repr(short).endswith("and 2 more short lists")
    assert "the first 30:" in repr(short)
    assert repr(short).count("u00001") == 30 + 3
    nothing = shop.recommend(histories=[["10001"]], items_to_recommend=[])
    assert nothing[0] == []
    assert nothing.to_polars().shape == (0, 6)
    assert "0 of 60 items are allowed" in repr(nothing)
    assert shop.recommend(histories=[]).to_polars().shape == (0, 6)
    with pytest.raises(IndexError):
        _ = nothing[1]


def test_evaluation_is_the_report(fitted: Path) -> None:
    evaluation = Recommender.from_pretrained(fitted).evaluate()
    assert isinstance(evaluation, Evaluation)
    table = evaluation.to_polars()
    assert table.rows(named=True) == list(evaluation.rows)
    assert evaluation.to_pandas().columns.tolist() == table.columns
    assert "genrec fused (default)" in repr(evaluation)
    assert evaluation.verdict in repr(evaluation)
    assert evaluation.verdict in evaluation._repr_html_()


def test_added_items_are_in_the_same_object(
    fitted: Path, books: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    run = shutil.copytree(fitted, tmp_path / "run")
    recommender = Recommender.from_pretrained(run)
    before = recommender.index_version
    new = books[0].head(2).with_columns(book_id=pl.Series([7, 8]), name=pl.Series(["Zither strings", "Zither case"]))
    assert recommender.add_items(as_pandas(new)) == 2
    assert len(recommender.catalog) == 62
    assert recommender.index_version != before
    assert {item.item_id for item in recommender.search("strings", 2, items_to_recommend=[7, 10001])[0]} == {7, 10001}
    assert Recommender.from_pretrained(run).recommend(users=[1], items_to_recommend=[8])[0][0].title == "Zither case"
    with pytest.raises(InputError, match="in the catalogue already, first '7'"):
        recommender.add_items(new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            "items: no column 'item_id', 'title'; it has 'book_id', 'name', 'brand', 'categories', 'description', "
            "'price'. interactions: no column 'item_id', 'user_id', 'timestamp'; it has 'reader', 'book_id', 'when'. "
            "Say what it is called: columns={'item_id': 'book_id', 'title': 'NAME', 'user_id': 'NAME', "
            "'timestamp': 'NAME'}",
        ),
        ({"columns": {"item": "book_id"}}, "no setting data.columns.item; did you mean data.columns.item_id"),
        ({"columns": COLUMNS | {"title": "book_id"}}, "data.columns.item_id 'book_id': is title too"),
        ({"lm": {"epoch": 3}}, "no setting lm.epoch; did you mean lm.epochs?"),
        ({"lm": {"epochs": -3}}, "lm.epochs -3 must not be negative"),
        ({"lm": {"epochs": "many"}}, "lm.epochs 'many': must be of the type int"),
        ({"data": {"cold_share": 10**400}}, "a number of more than 300 digits"),
        ({"lm": 3}, "lm 3: a section of settings belongs here"),
        ({"data": {"items": "x"}}, "tables and columns are arguments of their own"),
        ({"run": "~nobody-there/run"}, "run ~nobody-there/run: no such user"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    arguments: dict[str, Any], message: str, books: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        genrec.fit(*books, **{"run": "run", "verbose": False} | arguments)  # type: ignore[arg-type]
    assert message in str(refused.value)
    assert "genrec-" not in str(refused.value)  # the place of a scratch file says nothing to anybody
    assert list(tmp_path.iterdir()) == []


def test_tables_that_are_none(books: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="interactions: dict is neither a path nor a polars, pandas or Arrow table"):
        genrec.fit(books[0], {"user_id": []}, run=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"data.items gone.csv: no such file"):
        genrec.fit("gone.csv", books[1], run=tmp_path / "run")


def test_a_file_of_somebody_in_the_place_of_a_frame_stays(
    books: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    mine = tmp_path / "run" / INPUT / "items.parquet"
    mine.parent.mkdir(parents=True)
    books[0].write_parquet(mine)
    before = mine.read_bytes()
    with pytest.raises(InputError, match="is no data frame that"):
        genrec.fit(*books, run=tmp_path / "run", columns=COLUMNS, verbose=False)
    assert mine.read_bytes() == before
    assert MARK not in pl.read_parquet_metadata(mine)


def test_the_public_names_are_known_before_they_are_loaded() -> None:
    assert set(dir(genrec)) == {*genrec.__all__, "__version__"}
    assert all(hasattr(genrec, name) for name in dir(genrec))
    code = "import sys\nfrom genrec import Recommender, Recommendations, fit, serve\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "scipy", "sklearn", "pydantic"} & set(done.stdout.split())
