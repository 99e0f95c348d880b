"""Semantic IDs: one-to-one, on disk and back, new items, and nobody ever moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans, fit_codebooks
from genrec.semtok.semantic_ids import SemanticIds, add_items, assign_ids


def names(start: int, stop: int) -> tuple[str, ...]:
    return tuple(f"item {number}" for number in range(start, stop))


def vectors(n_items: int, seed: int = 0, width: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_items, width)).astype(np.float32)


QUANTIZER = ResidualKMeans(fit_codebooks(vectors(60), (4, 4, 4), seed=0))
IDS = SemanticIds(("a", "b"), np.array([[0, 1], [2, 0]], dtype=np.int32), (3, 2))


def test_ids_come_back_from_disk(tmp_path: Path) -> None:
    IDS.save(tmp_path)
    loaded = SemanticIds.load(tmp_path)
    assert (loaded.item_ids, loaded.sizes, loaded.codes.dtype) == (IDS.item_ids, IDS.sizes, np.int32)
    np.testing.assert_array_equal(loaded.codes, IDS.codes)
    frame = pl.read_parquet(tmp_path / "semantic_ids.parquet")
    assert frame.schema == {"item_id": pl.String, "codes": pl.List(pl.Int32)}
    first = (tmp_path / "semantic_ids.parquet").read_bytes()
    loaded.save(tmp_path)
    assert (tmp_path / "semantic_ids.parquet").read_bytes() == first


def test_an_empty_table_of_ids_is_kept(tmp_path: Path) -> None:
    SemanticIds((), np.empty((0, 2), dtype=np.int32), (3, 2)).save(tmp_path)
    assert SemanticIds.load(tmp_path).codes.shape == (0, 2)


@pytest.mark.parametrize(
    ("item_ids", "codes", "message"),
    [
        (("a", "a"), [[0, 0], [1, 1]], "item 'a' occurs twice"),
        (("a", "b"), [[0, 1], [0, 1]], r"codes \[0, 1\] of item 'a' occur twice"),
        (("a", "b"), [[0, 1], [0, 2]], r"item 'b' has codes \[0, 2\]"),
        (("a", "b"), [[0, 1], [-1, 0]], r"item 'b' has codes \[-1, 0\]"),
        (("a",), [[0, 1], [1, 0]], r"\(2, 2\) for 1 items"),
        (("a", "b"), [[0], [1]], r"\(2, 1\) for 2 items and 2 levels"),
    ],
)
def test_ids_that_break_the_rules_are_refused(item_ids: tuple[str, ...], codes: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticIds(item_ids, np.array(codes, dtype=np.int32), (3, 2))


@pytest.mark.parametrize(
    ("item", "codes", "message"),
    [
        ("a", [0, 1, 2], "row 0 has 3 codes"),
        ("a", [0, None], "empty cells"),
        ("a", None, "empty cells"),
        (None, [0, 1], "empty cells"),
        ("a", [0, 5], "item 'a' has codes"),
    ],
)
def test_broken_rows_are_named(item: str | None, codes: list[int | None] | None, message: str, tmp_path: Path) -> None:
    IDS.save(tmp_path)
    frame = pl.DataFrame(
        {"item_id": [item], "codes": [codes]}, schema={"item_id": pl.String, "codes": pl.List(pl.Int32)}
    )
    frame.write_parquet(tmp_path / "semantic_ids.parquet")
    with pytest.raises(InputError, match=rf"semantic_ids\.parquet: .*{message}"):
        SemanticIds.load(tmp_path)


def test_a_foreign_table_is_named(tmp_path: Path) -> None:
    IDS.save(tmp_path)
    pl.DataFrame({"item_id": [1], "codes": [2]}).write_parquet(tmp_path / "semantic_ids.parquet")
    with pytest.raises(InputError, match=r"semantic_ids\.parquet: column 'item_id' holds Int64"):
        SemanticIds.load(tmp_path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        SemanticIds.load(tmp_path)
    (tmp_path / "config.json").write_text('{"quantizer": {}}')
    with pytest.raises(InputError, match="has no part 'sizes'"):
        SemanticIds.load(tmp_path)
    (tmp_path / "config.json").write_text('{"sizes": [3, 0]}')
    with pytest.raises(InputError, match="not a list of positive numbers"):
        SemanticIds.load(tmp_path)
    (tmp_path / "config.json").write_text('{"sizes": [3, 2]}')
    with pytest.raises(InputError, match=r"semantic_ids\.parquet: no such file"):
        SemanticIds.load(tmp_path)
    (tmp_path / "semantic_ids.parquet").write_text("hello")
    with pytest.raises(InputError, match="not a whole Parquet file"):
        SemanticIds.load(tmp_path)


def test_items_alone_on_their_path_have_the_quantisers_codes() -> None:
    ids = assign_ids(QUANTIZER, names(0, 60), vectors(60))
    codes = QUANTIZER.encode(vectors(60))
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    alone = counts[inverse] == 1
    assert 0 < alone.sum() < 60
    np.testing.assert_array_equal(ids.codes[alone], codes[alone])
    assert ids.sizes == (4, 4, 4)


def test_an_extra_level_comes_only_where_capacity_or_a_wish_asks_for_it() -> None:
    assert assign_ids(QUANTIZER, names(0, 64), vectors(64)).sizes == (4, 4, 4)
    forced = assign_ids(QUANTIZER, names(0, 65), vectors(65))
    assert forced.sizes == (4, 4, 4, 4)
    wished = assign_ids(QUANTIZER, names(0, 9), np.zeros((9, 4), dtype=np.float32), extra_level=8)
    assert wished.sizes == (4, 4, 4, 8)
    path = QUANTIZER.encode(np.zeros((1, 4), dtype=np.float32))[0]
    assert (wished.codes[:8, :3] == path).all()  # alike items share their codes up to the extra one
    assert wished.codes[:8, 3].tolist() == list(range(8))
    assert (wished.codes[8, :3] != path).any()  # no room left: the ninth goes elsewhere


@given(st.integers(1, 40), st.lists(st.integers(0, 8), max_size=3), st.integers(0, 50), st.booleans())
def test_a_published_id_never_moves(start: int, batches: list[int], seed: int, duplicates: bool) -> None:
    total = start + sum(batches)
    data = vectors(total, seed)
    if duplicates:
        data = np.repeat(data[: (total + 3) // 4], 4, axis=0)[:total]
    ids = assign_ids(QUANTIZER, names(0, start), data[:start])
    at_once = add_items(ids, QUANTIZER, names(start, total), data[start:])
    for size in batches:
        before = ids
        stop = len(ids) + size
        ids = add_items(ids, QUANTIZER, names(len(ids), stop), data[len(before) : stop])
        assert ids.item_ids[: len(before)] == before.item_ids
        np.testing.assert_array_equal(ids.codes[: len(before)], before.codes)
    np.testing.assert_array_equal(ids.codes, at_once.codes)  # in batches or at once, new items get the same IDs


def test_a_new_item_takes_its_own_codes_if_they_are_free_and_else_a_neighbours() -> None:
    new = vectors(1, seed=9)
    ids = assign_ids(QUANTIZER, (), np.empty((0, 4), dtype=np.float32))
    ids = add_items(ids, QUANTIZER, ["first", "second"], np.repeat(new, 2, axis=0))
    path = QUANTIZER.encode(new)[0]
    assert ids.codes[0].tolist() == path.tolist()
    price = QUANTIZER.code_costs(new, path[None, :2])[0]
    assert ids.codes[1].tolist() == [*path[:2], np.argsort(price)[1]]


def test_adding_is_refused_where_it_cannot_be_right() -> None:
    ids = assign_ids(QUANTIZER, names(0, 64), vectors(64))
    with pytest.raises(InputError, match="all 64 semantic IDs are taken"):
        add_items(ids, QUANTIZER, ["new"], vectors(1))
    with pytest.raises(InputError, match="item 'item 3' has a semantic ID already"):
        add_items(ids, QUANTIZER, ["item 3"], vectors(1))
    with pytest.raises(InputError, match=r"levels \(3, 2\), a quantizer with \(4, 4, 4\)"):
        add_items(IDS, QUANTIZER, ["new"], vectors(1))
    with pytest.raises(InputError, match="width 5, fitted on width 4"):
        add_items(assign_ids(QUANTIZER, names(0, 2), vectors(2)), QUANTIZER, ["new"], vectors(1, width=5))
