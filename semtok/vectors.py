"""`ItemVectors`: one vector an item, and the name of what made them.

Shapes: N items of the catalogue, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from genrec.semtok.arrays import read_arrays
from genrec.semtok.errors import InputError
from genrec.semtok.folders import write_atomic


def unit_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [N, D] scaled to unit length; a row of zeros stays."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)


@dataclass(frozen=True)
class ItemVectors:
    """Vectors for the catalogue's rows.

    Attributes:
        values: float32 [N, D], finite.
        source: what made them, such as "tfidf" or "sasrec".
    """

    values: NDArray[np.float32]
    source: str

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.float32:
            raise ValueError(
                f"{self.source}: vectors must be float32 [N, D], not {self.values.dtype} {self.values.shape}"
            )
        broken = ~np.isfinite(self.values).all(axis=1)
        if broken.any():
            raise InputError(f"{self.source}: the vector of item row {int(np.argmax(broken))} is not finite")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """D."""
        return int(self.values.shape[1])

    def save(self, path: Path) -> None:
        """Write a safetensors file with the tensor `values` and the source in its metadata."""
        write_atomic(path, save({"values": np.ascontiguousarray(self.values)}, metadata={"source": self.source}))

    @classmethod
    def load(cls, path: Path) -> ItemVectors:
        """Read what `save` wrote; raises InputError where the file is missing or foreign."""
        values = read_arrays(path, {"values": ("float32", ("N", "D"))}, "a file of item vectors")["values"]
        with safe_open(path, framework="numpy") as file:
            source = (file.metadata() or {}).get("source")
        if source is None:
            raise InputError(f"{path}: not a file of item vectors (without the name of what made them)")
        return cls(values, source)
