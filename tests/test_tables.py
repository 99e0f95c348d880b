"""Every format comes in with its values untouched; every kind of breakage gets one line that names file and row."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from genrec.semtok.errors import InputError
from genrec.semtok.tables import id_column, read_table, refuse_rows, require_columns, row_number

ROWS = [{"item_id": "007", "title": "A, b"}, {"item_id": "x", "title": 'say "é"'}]
CSV = 'item_id,title\n007,"A, b"\nx,"say ""é"""\n'.encode()
JSONL = '{"item_id": "007", "title": "A, b"}\n{"item_id": "x", "title": "say \\"é\\""}\n'.encode()


def parquet() -> bytes:
    import io

    buffer = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.ndjson", "t.parquet", "t [1].csv", "t [1].jsonl"])
def test_every_format_reads_the_same(tmp_path: Path, name: str, packed: bool) -> None:
    data = CSV if name.endswith("csv") else parquet() if name.endswith("parquet") else JSONL
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read_table(path, what="items").to_dicts() == ROWS


def test_gzip_of_several_members_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a\n1\n") + gzip.compress(b"2\n"))
    assert read_table(path, what="items")["a"].to_list() == ["1", "2"]


def test_csv_keeps_spelling_and_knows_no_missing_value(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\r\n007,\r\n1e3,NA\r\n\r\n\r\n")
    assert read_table(path, what="items").to_dict(as_series=False) == {"a": ["007", "1e3"], "b": ["", "NA"]}


def test_jsonl_of_mixed_types_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n{"a": "x", "b": [1, "y"]}\n{"b": []}\n')
    assert read_table(path, what="items").to_dict(as_series=False) == {
        "a": ["1", "x", None],
        "b": [None, ["1", "y"], []],
    }


def test_a_schema_reads_only_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1, "text": "long"}\n{"text": {"b": 2}}\n')
    table = read_table(path, what="reviews", schema={"a": pl.Int64()})
    assert table.to_dict(as_series=False) == {"a": [1, None]}


BROKEN = {
    "empty.csv": (b"", "the file is empty (items)"),
    "empty.csv.gz": (gzip.compress(b""), "the file is empty (items)"),
    "empty.parquet": (b"", "the file is empty"),
    "header.csv": (b"a,b\n", "no rows (items)"),
    "blank.jsonl": (b"\n", "cannot be read"),
    "long.csv": (b"a,b\n1,2\n1,2,3\n", "row 3 has 3 fields, the header 2"),
    "quote.csv": (b'a,b\n1,2\n1,"2\n', "row 3 is not CSV (unexpected end of data)"),
    "inch.csv": (b'a,b\n1,2\n2,5" nail\n', "line 3 has a quote inside a field without quotes around it"),
    "mark.csv": (b"\xef\xbb\xbf", "cannot be read"),
    "latin.csv": (b"a,b\n1,2\n1,\xff\n", "line 3 is not UTF-8"),
    "twice.csv": (b"a,a\n1,2\n", "column 'a' is duplicated"),
    "cut.csv.gz": (gzip.compress(b"a,b\n1,2\n" * 1000)[:-12], "not a whole gzip file"),
    "plain.csv.gz": (b"a,b\n1,2\n", "not a whole gzip file"),
    "broken.jsonl": (b'{"a": 1}\n\n{"a":\n', "row 3 is not JSON (Expecting value at column 6)"),
    "cut.jsonl": (b'{"a": 1}\n{"a": 2', "row 2 is not JSON"),
    "array.jsonl": (b'{"a": 1}\n[1]\n', "row 2 is not a JSON object but list"),
    "pretty.json": (b'{\n  "a": 1\n}\n', "row 1 is not JSON"),
    "nan.jsonl": (b'{"a": NaN}\n', "row 1 is not JSON (NaN is no JSON number)"),
    "mark.jsonl": (b'\xef\xbb\xbf{"a": 1}\n', "row 1 is not JSON (Unexpected UTF-8 BOM"),
    "latin.jsonl": (b'{"a": 1}\n{"a": "\xff"}\n', "line 2 is not UTF-8"),
    "cut.jsonl.gz": (gzip.compress(b'{"a": 1}\n' * 1000)[:-9], "not a whole gzip file"),
    "cut.parquet": (parquet()[:-9], "not a whole Parquet file"),
    "text.parquet": (b"item_id,title\n", "not a whole Parquet file"),
    "table.xlsx": (b"PK", "items must be a .jsonl, .csv or .parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_get_one_line(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_table(path, what="items")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_cell_is_no_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"item_id,title,brand\n1,{'x' * 140_000},b\n2,t,\n")
    assert read_table(path, what="items")["brand"].to_list() == ["b", ""]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file \(items\)"):
        read_table(tmp_path / "t.csv", what="items")


@pytest.mark.parametrize(("name", "data", "number"), [("t.csv", b"a\n1\n2\n", 3), ("t.jsonl", b"{}\n\n \n{}\n", 4)])
def test_row_numbers_are_those_of_an_editor(tmp_path: Path, name: str, data: bytes, number: int) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert row_number(path, 1) == number
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(data))
    assert row_number(packed, 1) == number
    assert row_number(Path("t.parquet"), 1) == 2


def test_missing_columns_name_those_present() -> None:
    with pytest.raises(InputError, match=r"t.csv: no column 'title', 'x'; it has 'item_id', 'name'"):
        require_columns(pl.DataFrame({"item_id": [], "name": []}), Path("t.csv"), ("item_id", "title", "x"))


def test_ids_are_text_whatever_the_type() -> None:
    table = pl.DataFrame({"text": ["007"], "whole": [7], "float": [7.0], "null": [None], "category": ["c"]})
    table = table.with_columns(pl.col("category").cast(pl.Categorical))
    path = Path("t.csv")
    assert [id_column(table, path, name)[0] for name in ("text", "whole", "category")] == ["007", "7", "c"]
    with pytest.raises(InputError, match="column 'float' holds Float64, ids are text or whole numbers"):
        id_column(table, path, "float")
    with pytest.raises(InputError, match=r"t\.csv: 1 row without null, first at row 2"):
        id_column(table, path, "null")


def test_refused_rows_are_counted() -> None:
    bad = pl.Series([False, True, None, True])
    with pytest.raises(InputError, match=r"^t.csv: 3 rows with bad values, first at row 3: 'b'$"):
        refuse_rows(bad, Path("t.csv"), "with bad values", values=pl.Series(["a", "b", "c", "d"]))
    refuse_rows(pl.Series([False]), Path("t.csv"), "with bad values")
