"""Files that a run brings, read through a schema: a file of another form is one line, and never a surprise later.

JSON goes through pydantic: it checks the frozen dataclasses that the program has anyway, strictly and without a second
definition of them, it bounds the depth of what it parses, and the server has it as a dependency of its framework.

    facts = read_as(folder / "data.json", DataFacts)
    arrays = read_arrays(path, {"rows": ("int32", ("cases", 20))})
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genrec.semtok.errors import InputError

Value = TypeVar("Value")


_adapters: dict[Any, TypeAdapter[Any]] = {}  # by type; making one takes milliseconds


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def read_as(path: Path, kind: type[Value]) -> Value:
    """Parse a JSON file as a type: a dataclass, whose own checks run too, or a builtin such as `list[dict[str, Any]]`.

    Raises:
        InputError: the file is missing, or its contents are of another form.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        value: Value = _adapter(kind).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {place + ': ' if place else ''}{said}") from None
    return value


def read_arrays(path: Path, names: Mapping[str, tuple[str, tuple[int | str, ...]]]) -> dict[str, NDArray[Any]]:
    """Read a safetensors file that must hold these arrays and no others.

    Args:
        names: dtype and shape of each; a text in a shape stands for one length wherever it occurs.

    Raises:
        InputError: the file is missing or foreign, or an array is of another name, dtype or shape, or not finite.
    """
    arrays = _load(path)
    if arrays.keys() != names.keys():
        raise InputError(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}, not {', '.join(sorted(names))}")
    lengths: dict[str, int] = {}
    for name, (dtype, shape) in names.items():
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.ndim != len(shape):
            raise InputError(f"{path}: {name} is {array.dtype} {array.shape}, not {dtype} {shape}")
        for expected, length in zip(shape, array.shape, strict=True):
            if length != (lengths.setdefault(expected, length) if isinstance(expected, str) else expected):
                raise InputError(f"{path}: {name} is of shape {array.shape}, not {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: {name} has values that are not finite")
    return arrays


def read_columns(path: Path, dtype: str, length: int) -> dict[str, NDArray[Any]]:
    """Read a safetensors file of arrays of any names, all of this dtype and length.

    Raises:
        InputError: the file is missing or foreign, or an array is of another form.
    """
    arrays = _load(path)
    for name, array in arrays.items():
        if array.dtype != np.dtype(dtype) or array.shape != (length,):
            raise InputError(f"{path}: {name!r} is {array.dtype} {array.shape}, not {dtype} ({length},)")
    return arrays


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None
    return arrays
