"""Arrays of a file are of the names, dtypes and shapes asked for, finite and in range; else one line says what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from scipy import sparse

from genrec.semtok.arrays import Spec, read_arrays, read_tensors, sparse_matrix, sparse_spec
from genrec.semtok.errors import InputError

SPEC: Spec = {"a": ("float32", ("N", 2)), "b": ("int64", ("N",))}
SOUND: dict[str, NDArray[Any]] = {"a": np.ones((3, 2), dtype=np.float32), "b": np.arange(3)}


def test_what_fits_is_read(tmp_path: Path) -> None:
    save_file(SOUND, tmp_path / "x.safetensors")
    arrays = read_arrays(tmp_path / "x.safetensors", SPEC, "a thing")
    assert arrays.keys() == {"a", "b"}
    np.testing.assert_array_equal(arrays["b"], [0, 1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, r"not a thing \(without a\)"),
        ({"c": np.ones(1)}, r"not a thing \(with c\)"),
        ({"a": np.ones((3, 2))}, r"a is float64 \[3, 2\], not float32"),
        ({"a": np.ones((3, 3), dtype=np.float32)}, r"a is float32 \[3, 3\], not float32 \[3, 2\]"),
        ({"a": np.ones(3, dtype=np.float32)}, r"a is float32 \[3\]"),
        ({"b": np.arange(4)}, r"b is int64 \[4\], not int64 \[3\]"),
        ({"a": np.full((3, 2), np.nan, dtype=np.float32)}, "a holds numbers that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in {**SOUND, **change}.items() if array is not None}
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=message):
        read_arrays(tmp_path / "x.safetensors", SPEC, "a thing")
    with pytest.raises(InputError, match=message):
        read_tensors(tmp_path / "x.safetensors", SPEC, "a thing")


@pytest.mark.parametrize("data", [b"", b"?", b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}", bytes(10_000)])
def test_what_is_no_safetensors_file_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=r"not a safetensors file|not a thing \(without"):
        read_arrays(tmp_path / "x", SPEC, "a thing")
    with pytest.raises(InputError, match="no such file"):
        read_arrays(tmp_path / "y", SPEC, "a thing")
    with pytest.raises(InputError, match="not a safetensors file"):
        read_arrays(tmp_path, SPEC, "a thing")


def test_floats_of_a_network_come_in_three_widths(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        save_tensors({"w": torch.ones(2, dtype=dtype)}, tmp_path / "w")
        assert read_tensors(tmp_path / "w", {"w": ("float", (2,))}, "a thing")["w"].dtype == dtype
    save_tensors({"w": torch.ones(2, dtype=torch.float64)}, tmp_path / "w")
    with pytest.raises(InputError, match="w is float64"):
        read_tensors(tmp_path / "w", {"w": ("float", (2,))}, "a thing")


def parts(matrix: sparse.csr_array) -> dict[str, NDArray[Any]]:
    return {
        "m_data": matrix.data.astype(np.float32),
        "m_columns": matrix.indices.astype(np.int32),
        "m_starts": matrix.indptr.astype(np.int64),
    }


def test_a_sparse_matrix_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 1.0):
        dense = (rng.random((7, 5)) * (rng.random((7, 5)) < share)).astype(np.float32)
        save_file(parts(sparse.csr_array(dense)), tmp_path / "m")
        arrays = read_arrays(tmp_path / "m", sparse_spec("m"), "a matrix")
        np.testing.assert_array_equal(sparse_matrix(tmp_path / "m", "m", arrays, (7, 5)).toarray(), dense)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m_columns": [0, 10**8, 1]}, "m_columns has values outside 0 to 2"),
        ({"m_columns": [0, -1, 1]}, "m_columns has values outside"),
        ({"m_columns": [2, 0, 1]}, "m_columns does not ascend"),
        ({"m_columns": [1, 1, 1]}, "m_columns does not ascend"),
        ({"m_starts": [0, 2, 10**9]}, "m_starts does not cut 3 entries into rows"),
        ({"m_starts": [1, 2, 3]}, "m_starts does not cut"),
        ({"m_starts": [0, 4, 3]}, "m_starts does not cut"),
        ({"m_starts": [0, -2, 3]}, "m_starts does not cut"),
        ({"m_starts": [0, 1, 2, 3]}, "m_starts is of 3 rows, not of 2"),
        ({"m_starts": []}, "m_starts is of -1 rows"),
    ],
)
def test_what_sparse_code_takes_on_trust_is_checked(change: dict[str, list[int]], message: str) -> None:
    arrays = parts(sparse.csr_array(np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 0.0]])))
    arrays |= {name: np.asarray(value, dtype=arrays[name].dtype) for name, value in change.items()}
    with pytest.raises(InputError, match=message):
        sparse_matrix(Path("m"), "m", arrays, (2, 3))
