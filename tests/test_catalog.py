"""The item table: what is refused, what is kept, and how rows are found again."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.semtok.catalog import FILE, Catalog
from genrec.semtok.errors import InputError

SHOP = [
    {
        "item_id": "b7",
        "title": "Red lacquer",
        "brand": "OPI",
        "categories": ["Nails", "Polish"],
        "price": 9.5,
    },
    {
        "item_id": "007",
        "title": "Balm!",
        "categories": [],
        "price": 3,
    },
    {
        "item_id": "x y",
        "title": " ",
        "brand": "Ü & Co",
        "description": "Smells of\nlime.",
    },
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def shop(tmp_path: Path) -> Catalog:
    return Catalog.from_file(write(tmp_path / "items.jsonl", SHOP))


def test_rows_and_attributes(shop: Catalog) -> None:
    assert len(shop) == 3
    assert shop.item_ids == ("b7", "007", "x y")
    assert shop.titles == ("Red lacquer", "Balm!", " ")
    assert shop.attributes.columns == ["brand", "categories", "price", "description"]
    assert shop.attributes["price"].to_list() == [9.5, 3.0, None]
    assert shop.row("007") == 1
    assert shop.rows(["x y", "b7", "b7"]).tolist() == [2, 0, 0]
    assert shop.find(pl.Series(["x y", "?", None, "b7"])).tolist() == [2, -1, -1, 0]
    assert shop.find(pl.Series([], dtype=pl.String)).dtype == np.int32


def test_unknown_item_is_named(shop: Catalog) -> None:
    with pytest.raises(InputError, match="no item 'X9' in the catalogue"):
        shop.row("X9")
    with pytest.raises(InputError, match="'X9'"):
        shop.rows(["b7", "X9"])


def test_text_is_title_then_attributes_without_numbers(shop: Catalog) -> None:
    assert shop.texts() == [
        "Red lacquer. brand: OPI. categories: Nails, Polish.",
        "Balm!",
        "brand: Ü & Co. description: Smells of\nlime.",
    ]
    assert [shop.text(row) for row in range(3)] == shop.texts()


def test_text_leaves_out_columns_of_identifiers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"item_id": i, "title": "T", "sku": f"q{i}", "brand": f"B{i % 40}"} for i in range(80)]
    with caplog.at_level(logging.INFO):
        assert Catalog.from_file(write(tmp_path / "items.jsonl", rows)).text(41) == "T. brand: B1."
    assert caplog.messages == ["columns of identifiers are left out of the items' text: sku"]
    few = Catalog.from_file(write(tmp_path / "few.jsonl", rows[:30]))
    assert few.text(7) == "T. sku: q7. brand: B7."


def test_text_of_a_table_with_nothing_but_titles(tmp_path: Path) -> None:
    catalog = Catalog.from_file(write(tmp_path / "items.jsonl", [{"item_id": 1, "title": "One"}]))
    assert catalog.texts() == [catalog.text(0)] == ["One."]
    assert catalog.attributes.width == 0


def test_csv_numbers_become_numbers_but_ids_and_codes_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,price,stock,code,note\n007,A,1.5,2,01,\n8,,,3,2,fine\n")
    catalog = Catalog.from_file(path)
    assert catalog.item_ids == ("007", "8")
    assert catalog.titles == ("A", "")
    assert catalog.attributes.to_dict(as_series=False) == {
        "price": [1.5, None],
        "stock": [2, 3],
        "code": ["01", "2"],
        "note": [None, "fine"],
    }


def test_attributes_of_any_json_shape_become_plain(tmp_path: Path) -> None:
    rows = [
        {"item_id": "a", "title": "A", "d": {"x": 1}, "l": [{"y": 2}], "n": None, "f": True, "m": 1, "t": [1, 2]},
        {"item_id": "b", "title": "B", "d": None, "l": [], "n": None, "f": None, "m": "one", "t": None},
    ]
    attributes = Catalog.from_file(write(tmp_path / "items.jsonl", rows)).attributes
    assert attributes.to_dict(as_series=False) == {
        "d": ['{"x":1}', None],
        "l": [['{"y":2}'], []],
        "n": [None, None],
        "f": [True, None],
        "m": ["1", "one"],
        "t": [["1", "2"], None],
    }
    with pytest.raises(InputError, match="attribute 'l' holds lists of lists"):
        Catalog.from_file(write(tmp_path / "items.jsonl", [{"item_id": "a", "title": "A", "l": [["x"]]}]))


def test_numbers_that_do_not_fit_stay_text_and_nan_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,code,price\na,A,12345678901234567890,1\nb,B,7,2\n")
    assert Catalog.from_file(path).attributes.to_dict(as_series=False) == {
        "code": ["12345678901234567890", "7"],
        "price": [1, 2],
    }
    table = {"item_id": [1, 2], "title": ["A", "B"], "price": [float("nan"), 2.5]}
    hashes = pl.Series("hash", [2**64 - 1, 3], dtype=pl.UInt64)
    short = pl.Series("weight", [12.99, float("nan")], dtype=pl.Float32)
    pl.DataFrame(table).with_columns(hashes, short).write_parquet(tmp_path / "items.parquet")
    attributes = Catalog.from_file(tmp_path / "items.parquet").attributes
    assert attributes.to_dict(as_series=False) == {
        "price": [None, 2.5],
        "hash": [str(2**64 - 1), "3"],
        "weight": [12.99, None],
    }


@pytest.mark.parametrize("name", ["title", "note"])
@pytest.mark.parametrize("value", [timedelta(1), b"\xff"])
def test_values_that_are_no_text_are_refused(tmp_path: Path, name: str, value: object) -> None:
    table = {"item_id": ["a"], "title": ["A"]} | {name: [value]}
    pl.DataFrame(table).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(InputError, match=f"column '{name}' holds .*, which is no text"):
        Catalog.from_file(tmp_path / "items.parquet")


@pytest.mark.parametrize("title", [["A"], {"en": "A"}])
def test_a_title_is_one_text(tmp_path: Path, title: object) -> None:
    with pytest.raises(InputError, match="column 'title' holds"):
        Catalog.from_file(write(tmp_path / "items.jsonl", [{"item_id": "a", "title": title}]))


def test_csv_marks_withdrawn_items(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,withdrawn\na,A,true\nb,B,False\n")
    catalog = Catalog.from_file(path)
    assert catalog.withdrawn.tolist() == [True, False]
    assert catalog.attributes.width == 0
    path.write_text("item_id,title,withdrawn\na,A,true\nb,B,\n")
    with pytest.raises(InputError, match="column 'withdrawn' must be true or false"):
        Catalog.from_file(path)


def test_a_csv_row_that_ends_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,note\na,A,\nb,B\n")
    with pytest.raises(InputError, match="row 3 has 2 fields, the header 3"):
        Catalog.from_file(path)


def test_parquet_dates_and_decimals(tmp_path: Path) -> None:
    from datetime import date
    from decimal import Decimal

    table = {"item_id": [1], "title": ["A"], "since": [date(2020, 1, 2)], "price": [Decimal("1.50")]}
    pl.DataFrame(table).write_parquet(tmp_path / "items.parquet")
    attributes = Catalog.from_file(tmp_path / "items.parquet").attributes
    assert attributes.to_dicts() == [{"since": "2020-01-02", "price": 1.5}]


def test_empty_titles_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Catalog.from_file(write(tmp_path / "items.jsonl", SHOP))
    assert caplog.messages == [f"{tmp_path / 'items.jsonl'}: 1 of 3 titles are empty, first at row 3"]


BAD = {
    "no title": ([{"item_id": "a", "title": "A"}, {"item_id": "b"}], "1 row without title, first at row 2"),
    "null title": ([{"item_id": "a", "title": None}], "1 row without title, first at row 1"),
    "no id": (
        [{"item_id": "a", "title": "A"}, {"title": "B"}, {"title": "C"}],
        "2 rows without item_id, first at row 2",
    ),
    "empty id": ([{"item_id": "", "title": "A"}], "1 row without item_id, first at row 1"),
    "float id": ([{"item_id": 1.5, "title": "A"}], "column 'item_id' holds Float64"),
    "no id column": ([{"asin": "a", "title": "A"}], "no column 'item_id'; it has 'asin', 'title'"),
    "no columns": ([{}], "no column 'item_id', 'title'; it has none"),
    "twice": (
        [{"item_id": i, "title": "A"} for i in "abcbb"],
        "item 'b' is duplicated, in rows 2 and 4 (2 rows repeat an id)",
    ),
    "1 and '1'": ([{"item_id": i, "title": "A"} for i in (1, "1")], "item '1' is duplicated, in rows 1 and 2"),
    "withdrawn": ([{"item_id": "a", "title": "A", "withdrawn": "no"}], "column 'withdrawn' must be true or false"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_get_one_line(tmp_path: Path, case: str) -> None:
    rows, message = BAD[case]
    path = write(tmp_path / "items.jsonl", rows)
    with pytest.raises(InputError) as caught:
        Catalog.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_save_and_load_same_bytes(shop: Catalog, tmp_path: Path) -> None:
    shop = replace(shop, withdrawn=np.array([item == "007" for item in shop.item_ids]))
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    shop.save(first)
    loaded = Catalog.load(first)
    loaded.save(second)
    assert (first / FILE).read_bytes() == (second / FILE).read_bytes()
    assert (loaded.item_ids, loaded.titles) == (shop.item_ids, shop.titles)
    assert loaded.attributes.equals(shop.attributes)
    assert loaded.withdrawn.tolist() == [False, True, False]
    assert Catalog.from_file(first / FILE).withdrawn.tolist() == [False, True, False]


def test_load_of_a_broken_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Catalog.load(tmp_path)
    (tmp_path / FILE).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a whole Parquet file"):
        Catalog.load(tmp_path)


def test_append_keeps_rows_and_fills_with_nulls(shop: Catalog, tmp_path: Path) -> None:
    new = [{"item_id": "n1", "title": "New", "colour": "red", "price": 4}]
    longer = shop.append(Catalog.from_file(write(tmp_path / "new.jsonl", new)))
    assert longer.item_ids == ("b7", "007", "x y", "n1")
    assert longer.find(pl.Series(["b7", "n1"])).tolist() == [0, 3]
    assert longer.attributes["colour"].to_list() == [None, None, None, "red"]
    assert longer.attributes["brand"].to_list() == ["OPI", None, "Ü & Co", None]
    assert longer.attributes["price"].to_list() == [9.5, 3.0, None, 4.0]
    assert len(shop) == 3


def test_an_attribute_may_have_any_name(tmp_path: Path) -> None:
    old = Catalog.from_file(write(tmp_path / "old.jsonl", [{"item_id": "a", "title": "A", "row": "7"}]))
    new = Catalog.from_file(write(tmp_path / "new.jsonl", [{"item_id": "b", "title": "B", "row": "8"}]))
    assert old.append(new).attributes.to_dict(as_series=False) == {"row": ["7", "8"]}


def test_later_items_are_described_by_the_attributes_of_the_first(tmp_path: Path) -> None:
    """What is an identifier is decided where it can be told, not by a handful of new items."""
    rows = [{"item_id": i, "title": "T", "sku": f"q{i}", "brand": f"B{i % 40}"} for i in range(80)]
    old = Catalog.from_file(write(tmp_path / "old.jsonl", rows))
    new = Catalog.from_file(write(tmp_path / "new.jsonl", [{**rows[0], "item_id": 90, "sku": "q90"}]))
    assert new.texts() == ["T. sku: q90. brand: B0."]
    assert old.append(new).texts(old.text_columns)[80:] == ["T. brand: B0."]


def test_append_refuses_an_attribute_of_another_type(shop: Catalog, tmp_path: Path) -> None:
    new = Catalog.from_file(write(tmp_path / "new.jsonl", [{"item_id": "n1", "title": "New", "price": "dear"}]))
    with pytest.raises(InputError, match="attribute 'price' holds String in the new items, Float64 in the catalogue"):
        shop.append(new)


def test_an_attribute_nobody_filled_takes_any_type_later(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,price\na,A,\n")
    old = Catalog.from_file(tmp_path / "items.csv")
    old.save(tmp_path)
    new = Catalog.from_file(write(tmp_path / "new.jsonl", [{"item_id": "n1", "title": "New", "price": 4}]))
    assert Catalog.load(tmp_path).append(new).attributes["price"].to_list() == [None, 4]


def test_append_without_attributes(shop: Catalog, tmp_path: Path) -> None:
    bare = Catalog.from_file(write(tmp_path / "new.jsonl", [{"item_id": "n", "title": "N"}]))
    assert bare.append(shop).attributes.height == shop.append(bare).attributes.height == 4
    other = Catalog.from_file(write(tmp_path / "other.jsonl", [{"item_id": "o", "title": "O"}]))
    assert len(bare.append(other)) == 2


def test_append_refuses_known_items(shop: Catalog) -> None:
    with pytest.raises(InputError, match="3 new items are in the catalogue already, first 'b7'"):
        shop.append(shop)


def test_fields_of_different_lengths_are_a_defect() -> None:
    with pytest.raises(ValueError, match="one length"):
        Catalog(("a",), (), pl.DataFrame(), np.zeros(1, dtype=np.bool_))
