"""Foreign column names: mapped in YAML and by flags, and named for both tables at once where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from worlds.small_shop import SMALL, contents, write_shop

from genrec.cli.main import main
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.columns import Columns
from genrec.semtok.errors import InputError, OptionError
from genrec.semtok.tables import column_names

NAMES = ["--data.columns.item_id=id", "--data.columns.title=name", "--data.columns.user_id=reader",
         "--data.columns.timestamp=when", "--data.columns.item_id_in_log=book_id"]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shop of 60 items with its columns called otherwise, the item's id in two ways."""
    config = write_shop(tmp_path)
    items = pl.read_ndjson(tmp_path / "items.jsonl").rename({"item_id": "id", "title": "name"})
    items.write_ndjson(tmp_path / "items.jsonl")
    log = pl.read_csv(tmp_path / "interactions.csv")
    log.rename({"item_id": "book_id", "user_id": "reader", "timestamp": "when"}).write_csv(
        tmp_path / "interactions.csv"
    )
    return config


def test_both_tables_are_looked_at_before_any_work(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config), *SMALL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "items.jsonl: no column 'item_id', 'title'; it has 'id', 'name', 'brand'" in line
    assert "interactions.csv: no column 'item_id', 'user_id', 'timestamp'; it has 'reader', 'book_id', 'when'." in line
    assert line.endswith(
        "Say what it is called: --data.columns.item_id NAME --data.columns.title NAME "
        "--data.columns.item_id_in_log NAME --data.columns.user_id NAME --data.columns.timestamp NAME"
    )
    assert not (config.parent / "run/catalog").exists()


def test_a_mapped_run_is_the_run_of_the_same_data(config: Path, tiny_run: Path, tmp_path: Path) -> None:
    assert main(["fit", str(config), *SMALL, *NAMES]) == 0
    ours, theirs = contents(config.parent / "run"), contents(tiny_run)
    same = [name for name in ours if not name.endswith("manifest.json") and not name.startswith(("report/", "topk/"))]
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    run = config.parent / "run"
    new = pl.DataFrame({"id": ["n1"], "name": ["A new kettle"], "title": ["Dr"]})
    new.write_csv(tmp_path / "new.csv")
    assert main(["add-items", str(run), str(tmp_path / "new.csv")]) == 0
    assert Run(run).catalog().titles[-1] == "A new kettle"


def test_a_run_without_the_section_knows_the_usual_names(tiny_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    text = (copy / "config.yaml").read_text()
    start = text.index("  columns:")
    end = text.index("\n", text.index("item_id_in_log")) + 1
    (copy / "config.yaml").write_text(text[:start] + text[end:])
    assert Run(copy).columns == Columns()


def test_saved_columns_of_another_form_are_one_line(tiny_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    text = (copy / "config.yaml").read_text()
    for bad in ("    sku: x", "    title: 5"):
        (copy / "config.yaml").write_text(text.replace("    title: title", bad))
        with pytest.raises(InputError, match=r"config\.yaml: data\.columns: (sku|title): "):
            _ = Run(copy).columns


def test_a_column_of_our_name_beside_the_mapped_one_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pl.DataFrame({"id": [1], "name": ["A"], "title": ["Dr"], "brand": ["B"]}).write_csv(tmp_path / "items.csv")
    catalog = Catalog.from_file(tmp_path / "items.csv", Columns(item_id="id", title="name"))
    assert catalog.titles == ("A",)
    assert catalog.attributes.columns == ["brand"]
    assert "items.csv: column title is left out" in caplog.text


def test_messages_say_the_tables_own_names(tmp_path: Path) -> None:
    pl.DataFrame({"id": [1, None], "name": ["A", "B"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(InputError, match="1 row without id, first at row 2"):
        Catalog.from_file(tmp_path / "items.parquet", Columns(item_id="id", title="name"))


def test_one_name_for_two_columns_is_refused() -> None:
    with pytest.raises(OptionError, match="item_id 'id': is title too"):
        Columns(item_id="id", title="id")
    with pytest.raises(OptionError, match="user_id '': is no name"):
        Columns(user_id="")


@pytest.mark.parametrize(("dtype", "kept"), [(pl.Int32, True), (pl.UInt64, True), (pl.String, False)])
def test_ids_of_whole_numbers_are_remembered(dtype: type[pl.DataType], kept: bool, tmp_path: Path) -> None:
    table = pl.DataFrame({"item_id": pl.Series([3, 10]).cast(dtype), "title": ["A", "B"]})
    table.write_parquet(tmp_path / "items.parquet")
    Catalog.from_file(tmp_path / "items.parquet").save(tmp_path)
    read = Catalog.load(tmp_path)
    assert (read.item_ids, read.integer_ids) == (("3", "10"), kept)
    assert read.row(10) == read.row("10") == 1
    assert read.public_ids(read.rows([10, "3"])).to_list() == ([10, 3] if kept else ["10", "3"])


@pytest.mark.parametrize(("new", "kept"), [("11", True), ("007", False), ("x", False)])
def test_appended_ids_of_a_csv_file_count_where_they_are_whole_numbers(new: str, kept: bool, tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [3], "title": ["A"]}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"item_id": [new], "title": ["B"]}).write_csv(tmp_path / "new.csv")
    both = Catalog.from_file(tmp_path / "items.parquet").append(Catalog.from_file(tmp_path / "new.csv"))
    assert both.integer_ids is kept


def test_whole_numbers_beyond_64_bits_stay_text(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": pl.Series([2**64 - 1], dtype=pl.UInt64), "title": ["A"]}).write_parquet(
        tmp_path / "items.parquet"
    )
    assert not Catalog.from_file(tmp_path / "items.parquet").integer_ids


@pytest.mark.parametrize("text", ['"item_id"\n', "[1]\n", "7\n", "{not json\n"])
def test_lines_that_are_no_objects_are_left_to_who_reads_the_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(text)
    assert column_names(tmp_path / "items.jsonl") is None


def test_a_column_that_only_later_rows_have_is_one(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"a": 1}\n\n{"b": 2}\n')
    assert column_names(tmp_path / "items.jsonl") == ["a", "b"]
    (tmp_path / "log.csv").write_text('\ufeffuser_id,"the item"\n1,2\n', encoding="utf-8")
    assert column_names(tmp_path / "log.csv") == ["user_id", "the item"]
