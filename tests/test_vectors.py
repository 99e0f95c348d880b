"""Item vectors: checks, and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genrec.semtok.errors import InputError
from genrec.semtok.vectors import ItemVectors, unit_rows


def test_saved_vectors_come_back(tmp_path: Path) -> None:
    vectors = ItemVectors(np.arange(6, dtype=np.float32).reshape(3, 2), "tfidf")
    vectors.save(tmp_path / "text.safetensors")
    loaded = ItemVectors.load(tmp_path / "text.safetensors")
    assert loaded.source == "tfidf"
    assert loaded.values.dtype == np.float32
    np.testing.assert_array_equal(loaded.values, vectors.values)
    assert (len(loaded), loaded.width) == (3, 2)


def test_a_view_is_saved_as_it_reads(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    ItemVectors(values, "x").save(tmp_path / "v.safetensors")
    np.testing.assert_array_equal(ItemVectors.load(tmp_path / "v.safetensors").values, values)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_row(value: float) -> None:
    values = np.zeros((3, 2), dtype=np.float32)
    values[1, 0] = value
    with pytest.raises(InputError, match="tfidf: the vector of item row 1 is not finite"):
        ItemVectors(values, "tfidf")


@pytest.mark.parametrize("values", [np.zeros(3, dtype=np.float32), np.zeros((3, 2))])
def test_wrong_shape_or_type_is_a_defect(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="float32"):
        ItemVectors(values, "x")


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.safetensors: no such file"):
        ItemVectors.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not a safetensors file"):
        ItemVectors.load(tmp_path / "text")


def test_unit_rows_leave_zeros_alone() -> None:
    rows = unit_rows(np.array([[3, 4], [0, 0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])
