"""The files of a `semtok/` folder that have several writers: parts of `config.json`, and `quantizer.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from genrec.semtok.arrays import Spec, read_arrays
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json, to_json, write_atomic
from genrec.semtok.quantizers.residual import Floats

CONFIG = "config.json"
_TENSORS = "quantizer.safetensors"


def write_part(folder: Path, part: str, value: Any) -> None:
    """Set one part of `config.json`, keeping the others."""
    path = folder / CONFIG
    parts = read_json(path) if path.is_file() else {}
    write_atomic(path, to_json({**parts, part: value}))


def read_part(folder: Path, part: str) -> Any:
    """One part of `config.json`; raises InputError where it is missing."""
    parts = read_json(folder / CONFIG)
    if not isinstance(parts, dict) or part not in parts:
        raise InputError(f"{folder / CONFIG}: has no part {part!r}")
    return parts[part]


def save_state(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Floats]) -> None:
    """Write a quantiser's description and arrays; `config["name"]` says which quantiser it is."""
    write_atomic(folder / _TENSORS, save({name: np.ascontiguousarray(array) for name, array in tensors.items()}))
    write_part(folder, "quantizer", dict(config))


def load_config(folder: Path, name: str) -> dict[str, Any]:
    """The description that `save_state` wrote; raises InputError where it is missing or another quantiser's."""
    config = read_part(folder, "quantizer")
    if not isinstance(config, dict) or config.get("name") != name:
        raise InputError(f"{folder / CONFIG}: does not describe a {name} quantiser")
    return config


def load_arrays(folder: Path, name: str, spec: Spec) -> dict[str, Floats]:
    """The arrays that `save_state` wrote; raises InputError where they are missing or of another form."""
    return read_arrays(folder / _TENSORS, spec, f"a saved {name} quantiser")
