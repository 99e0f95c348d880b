from __future__ import annotations

import os
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.topk_batches import write_batch

from genrec.inference.store.packed_lists import DAY, LONGEST_KEY, ListDecoder, read_batch, row_type, user_key
from genrec.semtok.errors import InputError
from genrec.semtok.folders import new_folder

USERS = st.text(min_size=1, max_size=40) | st.text(alphabet="aé☃🛒\x00", min_size=300, max_size=700)
SCORES = st.floats(width=32, allow_nan=False, allow_infinity=False)
LISTS = st.dictionaries(USERS, st.lists(st.tuples(st.text(min_size=1, max_size=8), SCORES), max_size=6), min_size=1)


@settings(max_examples=20, deadline=None)
@given(lists=LISTS, parts=st.integers(1, 3))
def test_packing_round_trips(tmp_path_factory, lists, parts):
    batch = read_batch(write_batch(tmp_path_factory.mktemp("batch") / "topk", lists, parts=parts))
    decoder = ListDecoder(batch.item_ids)
    packed = list(batch.lists.items())
    assert [key for key, _ in packed] == sorted(user_key(user) for user in lists)
    found = {key: decoder.lists(value) for key, value in packed}
    for user, pairs in lists.items():
        assert found[user_key(user)] == (tuple(item for item, _ in pairs), tuple(score for _, score in pairs))
    assert list(batch.item_ids) == sorted({item for pairs in lists.values() for item, _ in pairs})


@given(st.text(max_size=700), st.text(max_size=700))
def test_different_users_have_different_keys_that_lmdb_takes(one, other):
    assert (user_key(one) == user_key(other)) == (one == other)
    assert len(user_key(one)) <= LONGEST_KEY


def test_a_digest_is_no_users_key():
    assert user_key("x" * LONGEST_KEY) == b"x" * LONGEST_KEY
    assert user_key("x" * (LONGEST_KEY + 1))[:1] == b"\xff"  # which opens no UTF-8 text


def test_rows_take_four_bytes_in_a_large_table():
    assert (row_type(65_536), row_type(65_537)) == ("<u2", "<u4")
    decoder = ListDecoder(tuple(str(row) for row in range(70_000)))
    value = np.array([(69_999, 1.5), (3, -2.0)], dtype=[("row", "<u4"), ("score", "<f4")]).tobytes()
    assert decoder.lists(value) == (("69999", "3"), (1.5, -2.0))


def test_histories_share_the_item_table(tmp_path):
    folder = write_batch(tmp_path / "topk", {"ann": [("b", -1.0)]})
    histories = pl.DataFrame({"user_id": ["zoe", "ann"], "item_ids": [["a", "b"], []]})
    batch = read_batch(folder, histories=histories)
    assert batch.item_ids == ("a", "b")
    decoder = ListDecoder(batch.item_ids)
    found = {key: decoder.history(value) for key, value in batch.histories.items()}
    assert found == {b"ann": (), b"zoe": ("a", "b")}


def test_values_that_are_not_whole_or_point_outside_are_refused():
    decoder = ListDecoder(("a",))
    with pytest.raises(ValueError, match="whole records"):
        decoder.lists(b"12345")
    with pytest.raises(ValueError, match="outside the table"):
        decoder.lists(b"\x01\x00" + b"\x00" * 4)
    with pytest.raises(ValueError, match="outside the table"):
        decoder.history(b"\x00\x00\x01\x00")
    with pytest.raises(ValueError, match="whole records"):
        decoder.history(b"\x00")


def test_as_of_is_the_time_of_the_first_file_unless_given(tmp_path):
    folder = write_batch(tmp_path / "topk", {"ann": [("a", 1.0)], "bob": []}, parts=2)
    os.utime(folder / "part-00001.parquet", (1234.5, 1234.5))
    assert read_batch(folder).as_of == 1234.5
    assert read_batch(folder, as_of=7.0).as_of == 7.0


def test_an_as_of_that_no_event_could_follow_is_refused(tmp_path):
    folder, now = write_batch(tmp_path / "topk", {"ann": [("a", 1.0)]}), time.time()
    for as_of in (now * 1000, now + 2 * DAY, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(InputError, match=r"^--as_of \S+: expected seconds .* milliseconds\?$"):
            read_batch(folder, as_of=as_of)
    assert read_batch(folder, as_of=now + DAY / 2).as_of == now + DAY / 2  # a clock that is ahead


METADATA = {"run_id": "r", "ranking": "fused", "index_version": "i"}
SCHEMA = {"user_id": pl.String, "item_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)}


@pytest.mark.parametrize(
    ("rows", "schema", "metadata", "message"),
    [
        ([("ann", ["a"], [1.0]), ("ann", ["b"], [1.0])], SCHEMA, METADATA, "user 'ann' is duplicated"),
        ([("ann", ["a", "b"], [1.0])], SCHEMA, METADATA, "user 'ann': the numbers of items and scores differ"),
        ([("ann", ["a"], None)], SCHEMA, METADATA, "user 'ann': the numbers of items and scores differ"),
        ([("ann", ["a"], [None])], SCHEMA, METADATA, "a score is missing"),
        ([("ann", ["a"], [float("inf")])], SCHEMA, METADATA, "not a finite number"),
        ([("ann", [None], [1.0])], SCHEMA, METADATA, "user 'ann': a missing item id"),
        ([("ann", None, [1.0])], SCHEMA, METADATA, "user 'ann': a missing item id or list"),
        ([("ann", ["a"], [1.0]), (None, ["a"], [1.0])], SCHEMA, METADATA, "row 2: no user_id"),
        ([("", ["a"], [1.0])], SCHEMA, METADATA, "row 1: no user_id"),
        ([("ann", ["a"], [1.0])], SCHEMA, {"run_id": "r"}, "no ranking in the file's metadata"),
        ([(1, ["a"], [1.0])], SCHEMA | {"user_id": pl.Int64}, METADATA, "user_id must be a string"),
        ([("ann", ["a"], [1])], SCHEMA | {"scores": pl.List(pl.Int64)}, METADATA, "scores must be a list of floats"),
        ([("ann", ["a"])], {"user_id": pl.String, "item_ids": pl.List(pl.String)}, METADATA, "no column scores"),
    ],
)
def test_a_broken_batch_is_refused(tmp_path, rows, schema, metadata, message):
    with new_folder(tmp_path / "topk", {}) as scratch:
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(scratch / "part-00000.parquet", metadata=metadata)
    with pytest.raises(InputError, match=message):
        read_batch(tmp_path / "topk")


def test_parts_of_two_runs_are_refused(tmp_path):
    one = write_batch(tmp_path / "one", {"ann": [("a", 1.0)]}, run_id="run-a")
    two = write_batch(tmp_path / "two", {"bob": [("a", 1.0)]}, run_id="run-b")
    with new_folder(tmp_path / "topk", {}) as scratch:
        (scratch / "part-00000.parquet").write_bytes((one / "part-00000.parquet").read_bytes())
        (scratch / "part-00001.parquet").write_bytes((two / "part-00000.parquet").read_bytes())
    with pytest.raises(InputError, match=r"part-00001.parquet: of another run"):
        read_batch(tmp_path / "topk")


def test_unfinished_damaged_and_empty_folders_are_refused(tmp_path):
    folder = write_batch(tmp_path / "topk", {"ann": [("a", 1.0)]})
    part = folder / "part-00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_batch(folder)
    part.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(InputError, match="differ from the manifest"):
        read_batch(folder)
    part.unlink()
    with pytest.raises(InputError, match="missing"):
        read_batch(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        read_batch(folder)
    with new_folder(tmp_path / "none", {}):
        pass
    with pytest.raises(InputError, match=r"no part-\*.parquet"):
        read_batch(tmp_path / "none")
    with new_folder(tmp_path / "text", {}) as scratch:
        (scratch / "part-00000.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="not a Parquet file"):
        read_batch(tmp_path / "text")
