"""Users of a batch job from the log, files of every kind, and standard input; every kind of bad row."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.interactions import Interactions
from genrec.data.sequences import Sequences
from genrec.inference.batch.users import BLOCK, FileUsers, LogUsers, Users, _RepeatedHashes, standard_input
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError

ITEMS = ("a", "b", "7")
USERS = [("u1", ["a", "b", "a"]), ("2", []), ("ü 3", ["7"])]


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(ITEMS, ITEMS, pl.DataFrame(), np.zeros(3, dtype=np.bool_))


def as_lists(users: Users) -> list[tuple[str, list[str]]]:
    return [(user_id, [ITEMS[row] for row in rows]) for user_id, rows in users]


def written(folder: Path, name: str) -> Path:
    """The users as a file of each kind."""
    path = folder / name
    table = pl.DataFrame(USERS, schema={"user_id": pl.String, "history": pl.List(pl.String)}, orient="row")
    match name:
        case "lists.jsonl":
            path.write_text("\n\n".join(json.dumps({"user_id": u, "history": h, "more": 1}) for u, h in USERS) + "\n")
        case "texts.jsonl.gz":
            rows = [{"history": " ".join(h), "user_id": int(u) if u.isdigit() else u} for u, h in USERS]
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        case "numbers.jsonl":
            rows = [{"user_id": u, "history": [int(i) if i.isdigit() else i for i in h]} for u, h in USERS]
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        case "table.csv":
            path.write_text("n,user_id,history\n" + "".join(f'1,"{u}",{" ".join(h)}\n' for u, h in USERS))
        case "table.csv.gz":
            path.write_bytes(
                gzip.compress(("history,user_id\r\n" + "".join(f"{' '.join(h)},{u}\r\n" for u, h in USERS)).encode())
            )
        case "lists.parquet":
            table.write_parquet(path, row_group_size=2)
        case "texts.parquet":
            table.with_columns(pl.col("history").list.join(" ")).write_parquet(path)
    return path


@pytest.mark.parametrize(
    "name",
    ["lists.jsonl", "texts.jsonl.gz", "numbers.jsonl", "table.csv", "table.csv.gz", "lists.parquet", "texts.parquet"],
)
def test_every_format_gives_the_same(name: str, tmp_path: Path, catalog: Catalog) -> None:
    users = FileUsers(written(tmp_path, name), catalog)
    assert users.count == 3
    assert as_lists(users) == as_lists(users) == USERS


@pytest.mark.parametrize("name", ["texts.jsonl.gz", "lists.jsonl", "table.csv"])
def test_a_byte_order_mark_is_passed_over(name: str, tmp_path: Path, catalog: Catalog) -> None:
    """Excel puts one before a CSV file in UTF-8."""
    path = written(tmp_path, name)
    data = path.read_bytes()
    path.write_bytes(
        gzip.compress(b"\xef\xbb\xbf" + gzip.decompress(data)) if name.endswith("gz") else b"\xef\xbb\xbf" + data
    )
    assert as_lists(FileUsers(path, catalog)) == USERS


def test_a_long_history_is_read_from_csv(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "users.csv").write_text("user_id,history\nx," + "a b " * 50_000 + "\n")
    assert as_lists(FileUsers(tmp_path / "users.csv", catalog)) == [("x", ["a", "b"] * 50_000)]


def test_large_parquet_is_read_in_parts(tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "users.parquet"
    n = 20_000
    pl.DataFrame({"user_id": range(n), "history": [["a"] * (i % 3) for i in range(n)]}).write_parquet(path)
    users = FileUsers(path, catalog)
    assert users.count == n
    assert as_lists(users) == [(str(i), ["a"] * (i % 3)) for i in range(n)]


def test_log(catalog: Catalog) -> None:
    histories = Sequences.from_lists([[0, 1, 0], [], [2]])
    log = Interactions(("u1", "2", "ü 3"), histories, np.arange(4), "position")
    users = LogUsers(log)
    assert users.count == 3
    assert as_lists(users) == as_lists(users) == USERS
    other = Interactions(("u1", "2", "ü 3"), Sequences.from_lists([[0, 1], [0], [2]]), np.arange(4), "position")
    assert LogUsers(other).digest != users.digest


def test_digest_follows_the_file(tmp_path: Path, catalog: Catalog) -> None:
    path = written(tmp_path, "lists.jsonl")
    before = FileUsers(path, catalog).digest
    assert FileUsers(path, catalog).digest == before
    path.write_text(path.read_text().replace('"b"', '"a"'))
    assert FileUsers(path, catalog).digest != before


@pytest.mark.parametrize("name", ["lists.jsonl", "table.csv", "lists.parquet"])
def test_a_file_that_changes_between_its_two_reads_is_refused(name: str, tmp_path: Path, catalog: Catalog) -> None:
    """And no user is given who was not checked: one was changed, one is missing, one is more, one moved."""

    def write(users: list[tuple[str, list[str]]]) -> None:
        table = pl.DataFrame(users, schema={"user_id": pl.String, "history": pl.List(pl.String)}, orient="row")
        match Path(name).suffix:
            case ".jsonl":
                table.write_ndjson(tmp_path / name)
            case ".csv":
                table.with_columns(pl.col("history").list.join(" ")).write_csv(tmp_path / name)
            case ".parquet":
                table.write_parquet(tmp_path / name)

    for rows in (2500, 2 * BLOCK):
        was = [(f"u{n}", ["a"] * (n % 3)) for n in range(rows)]
        for now in ([*was[:2000], ("u2000", ["b"]), *was[2001:]], was[:-1], [*was, ("more", [])], [*was[1:], was[0]]):
            write(was)
            users = FileUsers(tmp_path / name, catalog)
            assert as_lists(users) == was
            given = []
            write(now)
            with pytest.raises(InputError, match=rf"{name}: changed while it was read"):
                given.extend(user_id for user_id, _ in users)
            assert given == [user_id for user_id, _ in was[: len(given)]]
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        list(users)


def test_standard_input(tmp_path: Path, catalog: Catalog) -> None:
    """The copy is gone afterwards, also after a mistake."""
    data = written(tmp_path, "lists.jsonl").read_bytes()
    out = tmp_path / "runs" / "topk"
    with standard_input(io.BytesIO(data), catalog, out) as users:
        assert as_lists(users) == USERS
    assert list(out.parent.iterdir()) == []
    with (
        pytest.raises(InputError, match="standard input: row 3 is not"),
        standard_input(io.BytesIO(data.replace(b'"history": []', b"")), catalog, out),
    ):
        pass
    assert list(out.parent.iterdir()) == []


def test_standard_input_of_a_running_job_is_not_overwritten(tmp_path: Path, catalog: Catalog) -> None:
    data = written(tmp_path, "lists.jsonl").read_bytes()
    with standard_input(io.BytesIO(data), catalog, tmp_path / "topk") as users:
        with (
            pytest.raises(InputError, match="topk: another job is writing here"),
            standard_input(io.BytesIO(b'{"user_id": "x", "history": []}'), catalog, tmp_path / "topk"),
        ):
            pass
        assert as_lists(users) == USERS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.jsonl", '{"user_id": "x", "history": []}\n{"user_id": "y"}\n', "row 2 is not"),
        ("u.jsonl", '{"user_id": "x", "history": []}\n\n{"user_id": "y", \n', "row 3 is not"),
        ("u.jsonl", "[1]\n", "row 1 is not"),
        ("u.jsonl", '{"user_id": "", "history": []}\n', "row 1 has no user_id"),
        ("u.jsonl", '{"user_id": null, "history": []}\n', "row 1 has no user_id"),
        ("u.jsonl", '{"user_id": true, "history": []}\n', "row 1 has no user_id"),
        ("u.jsonl", '{"user_id": "x", "history": null}\n', "row 1: the history is not a list"),
        ("u.jsonl", '{"user_id": "x", "history": ["a", 1.5]}\n', "row 1: the history is not a list"),
        ("u.jsonl", '{"user_id": "x", "history": {"a": 1}}\n', "row 1: the history is not a list"),
        ("u.jsonl", '{"user_id": "x", "history": [' + "9" * 5000 + "]}\n", "row 1 is not"),
        ("u.jsonl", "[" * 100_000 + "\n", "row 1 is not"),
        ("u.jsonl", '{"user_id": "\\ud83d", "history": []}\n', r"row 1: half a character in the user_id '\\ud83d'"),
        ("u.jsonl", '{"user_id": "x", "history": ["a", "zz"]}\n', "row 1: no item 'zz' in the catalogue"),
        ("u.jsonl", '{"user_id": 5, "history": []}\n{"user_id": "5", "history": []}\n', "user '5' is duplicated, in"),
        ("u.jsonl", "", "no rows"),
        ("u.csv", "", "needs the columns user_id and history"),
        ("u.csv", "user_id,items\nx,a\n", "needs the columns user_id and history"),
        ("u.csv", "user_id,history\nx,a\n,b\n", "row 3 has no user_id"),
        ("u.csv", "user_id,history\nx,a b c\n", "row 2: no item 'c' in the catalogue"),
        ("u.csv", "user_id,history\nx\n", "row 2 has not as many fields"),
        ("u.csv", "user_id,history\nx,a,b\n", "row 2 has not as many fields"),
        ("u.csv", 'user_id,history\nx,"a\n', "row 2 is no CSV"),
        ("u.csv", "user_id,history\nx,a\ny,b\nx,b\n", "user 'x' is duplicated, in rows 2 and 4"),
        ("u.csv", "user_id,history\n", "no rows"),
        ("u.parquet", "no parquet", "can't be read"),
        ("u.jsonl.gz", "no gzip", "can't be read"),
        ("u.txt", "x a\n", r"users must be a \.jsonl, \.csv or \.parquet file"),
    ],
)  # fmt: skip
def test_bad_files(name: str, text: str, message: str, tmp_path: Path, catalog: Catalog) -> None:
    """One line that names file and row, before any work."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        FileUsers(tmp_path / name, catalog)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_bad_files(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "latin.csv").write_bytes("user_id,history\nü,a\n".encode("latin-1"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"user_id": 1, "history": []}\n')[:-9])
    garbled = bytearray(gzip.compress(b'{"user_id": 1, "history": []}\n'))
    garbled[10] ^= 0x06  # the kind of the first block, behind the header
    (tmp_path / "garbled.jsonl.gz").write_bytes(garbled)
    pl.DataFrame({"user": ["x"]}).write_parquet(tmp_path / "names.parquet")
    pl.DataFrame({"user_id": ["x"], "history": [{"a": 1}]}).write_parquet(tmp_path / "struct.parquet")
    pl.DataFrame({"user_id": ["x", None], "history": [["a"], ["b"]]}).write_parquet(tmp_path / "null.parquet")
    for name, message in (
        ("latin.csv", "can't be read"),
        ("cut.jsonl.gz", "can't be read"),
        ("garbled.jsonl.gz", "can't be read"),
        ("names.parquet", "needs the columns"),
        ("struct.parquet", "row 1: the history is not a list"),
        ("null.parquet", "row 2 has no user_id"),
        ("missing.csv", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            FileUsers(tmp_path / name, catalog)


@given(st.lists(st.integers(0, 40), max_size=60))
def test_repeats_are_found(tmp_path_factory: pytest.TempPathFactory, numbers: list[int]) -> None:
    repeated = _RepeatedHashes(tmp_path_factory.mktemp("hashes"))
    for number in numbers:
        repeated.add(str(number))
    assert len(repeated.found()) == sum(numbers.count(number) > 1 for number in set(numbers))
