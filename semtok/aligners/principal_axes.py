"""The main axes of a set of vectors.

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
