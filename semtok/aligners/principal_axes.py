"""The main axes of a set of vectors, and what centres and scales them.

Shapes: N rows, D dimensions, W axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def principal_axes(values: Floats, width: int) -> tuple[Floats, Floats]:
    """Mean [D] and the `width` main axes [D, W] of the rows [N, D], by the eigenvectors of their covariance.

    W is D where `width` is more. `(values - mean) @ axes` are the principal components.
    """
    mean: Floats = values.mean(axis=0)
    centred = values - mean
    _, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = vectors[:, ::-1][:, :width]
    # An eigenvector's sign is arbitrary: fix it, so that every linear algebra library gives the same axes.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return mean, np.ascontiguousarray(axes, dtype=np.float32)


def component_rows(vectors: Floats, width: int, scale: float) -> Floats:
    """The `width` main components of the rows [N, D], with entries of root mean square `scale`: float32 [N, width].

    Columns that the vectors have no dimensions for are 0.
    """
    mean, axes = principal_axes(vectors, width)
    components = (vectors - mean) @ axes
    components *= scale / np.sqrt(np.square(components).mean()).clip(1e-12)
    return np.pad(components.astype(np.float32), ((0, 0), (0, width - components.shape[1])))


def mean_and_scale(vectors: Floats) -> tuple[Floats, np.float32]:
    """Mean [D], and the root mean square of what is left: unit rows have entries far too small for a layer. Of rows
    that are all alike nothing is left, and 1 keeps other rows in bounds."""
    mean: Floats = vectors.mean(axis=0)
    return mean, np.sqrt(np.square(vectors - mean).mean()) or np.float32(1)
