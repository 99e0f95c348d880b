"""Arrays of a safetensors file, checked before anything computes with them.

    arrays = read_arrays(path, {"counts": ("float32", ("N",)), "columns": ("int32", ("A",))}, "co-occurrence counts")
    tensors = read_tensors(path, state_spec(model), "weights of this model")

A file holds the arrays that its reader names and no others, of these dtypes and shapes; numbers are finite; indices lie
in their range. Names, dtypes and shapes are compared with the file's header, so that nothing is allocated for a file of
another kind. Sparse matrices get the full check of their format, which the code that multiplies them takes on trust.

Shapes: R rows, C columns, A entries of a sparse matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from scipy import sparse

from genrec.semtok.errors import InputError

if TYPE_CHECKING:  # what reads numpy arrays alone does without
    from torch import Tensor, nn

Spec = Mapping[str, tuple[str, tuple[int | str, ...]]]
"""Name to dtype and shape. A letter in a shape stands for one length wherever it occurs; the dtype "float" is any of
float32, bfloat16 and float16, which tensors come in and arrays don't."""

_CODES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64", "BOOL": "bool", "U8": "uint8"}
_CODES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_FLOATS = ("float32", "bfloat16", "float16")


def read_arrays(path: Path, spec: Spec | Callable[[list[str]], Spec], what: str) -> dict[str, NDArray[Any]]:
    """Read a safetensors file as numpy arrays.

    Args:
        spec: what it must hold; a function is given the names that it holds, where these vary.
        what: the file is, for the message: `PATH: not WHAT (without counts)`.

    Raises:
        InputError: the file is missing, truncated or foreign, or an array is of another form or not finite.
    """
    arrays: dict[str, NDArray[Any]] = _read(path, spec, what, "numpy")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: not {what} ({name} holds numbers that are not finite)")
    return arrays


def read_tensors(path: Path, spec: Spec | Callable[[list[str]], Spec], what: str) -> dict[str, Tensor]:
    """`read_arrays` for torch."""
    tensors: dict[str, Tensor] = _read(path, spec, what, "pt")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: not {what} ({name} holds numbers that are not finite)")
    return tensors


def state_spec(module: nn.Module) -> Spec:
    """What a file of a module's weights holds."""
    return {
        name: ("float" if value.is_floating_point() else str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in module.state_dict().items()
    }


def _read(path: Path, spec: Spec | Callable[[list[str]], Spec], what: str, framework: str) -> dict[str, Any]:
    try:
        with safe_open(path, framework=framework) as file:
            names = list(file.keys())
            parts = {name: file.get_slice(name) for name in names}
            wanted = spec(names) if callable(spec) else spec
            _check_header({name: (_dtype(part), part.get_shape()) for name, part in parts.items()}, wanted)
            return {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None
    except _OtherForm as error:
        raise InputError(f"{path}: not {what} ({error})") from None


class _OtherForm(Exception):
    """The header of a file is not that of the arrays asked for."""


def _dtype(part: Any) -> str:
    code = str(part.get_dtype())
    return _CODES.get(code, code)


def _check_header(found: Mapping[str, tuple[str, list[int]]], spec: Spec) -> None:
    if missing := sorted(spec.keys() - found.keys()):
        raise _OtherForm(f"without {', '.join(missing[:3])}")
    if other := sorted(found.keys() - spec.keys()):
        raise _OtherForm(f"with {', '.join(other[:3])}")
    lengths: dict[str, int] = {}
    for name, (dtype, shape) in spec.items():
        own_dtype, own_shape = found[name]
        fits = own_dtype in _FLOATS if dtype == "float" else own_dtype == dtype
        fits = fits and len(own_shape) == len(shape)
        for expected, length in zip(shape, own_shape, strict=False):
            fits = fits and length == (lengths.setdefault(expected, length) if isinstance(expected, str) else expected)
        if not fits:
            told = ", ".join(str(lengths.get(part, part) if isinstance(part, str) else part) for part in shape)
            raise _OtherForm(f"{name} is {own_dtype} {own_shape}, not {dtype} [{told}]")


def check_indices(path: Path, name: str, values: NDArray[np.integer[Any]], below: int) -> None:
    """Raise InputError where an index lies outside [0, below)."""
    if len(values) and not (int(values.min()) >= 0 and int(values.max()) < below):
        raise InputError(f"{path}: {name} has values outside 0 to {below - 1}")


def sparse_spec(name: str) -> Spec:
    """The arrays that `sparse_matrix` puts together, in a file of several."""
    return {
        f"{name}_data": ("float32", (f"{name} entries",)),
        f"{name}_columns": ("int32", (f"{name} entries",)),
        f"{name}_starts": ("int64", (f"{name} rows and one",)),
    }


def sparse_matrix(
    path: Path, name: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]
) -> sparse.csr_array:
    """A sparse float32 matrix [R, C] of the arrays of `sparse_spec`; raises InputError where rows begin elsewhere than
    they should, or columns are out of range, out of order or twice in a row.
    """
    data, columns, starts = (arrays[f"{name}_{part}"] for part in ("data", "columns", "starts"))
    if len(starts) != shape[0] + 1:
        raise InputError(f"{path}: {name}_starts is of {len(starts) - 1} rows, not of {shape[0]}")
    if starts[0] != 0 or starts[-1] != len(columns) or (np.diff(starts) < 0).any():
        raise InputError(f"{path}: {name}_starts does not cut {len(columns)} entries into rows")
    check_indices(path, f"{name}_columns", columns, shape[1])
    ascends = np.diff(columns) > 0
    inner = starts[(starts > 0) & (starts < len(columns))]
    ascends[inner - 1] = True  # the first column of a row may be lower than the last of the row before
    if not ascends.all():
        raise InputError(f"{path}: {name}_columns does not ascend within each row")
    return sparse.csr_array((data, columns, starts), shape=shape)
