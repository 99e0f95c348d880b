"""Residual quantisation in a latent space: what residual k-means and RQ-VAE have in common.

Level l codes what the levels before it left over: r_0 = z, c_l = argmin_c ||r_l - e_lc||^2, r_(l+1) = r_l - e_(l c_l)
(Lee et al. 2022, arXiv 2203.01941, eq. 2-3). The codes' sum is the approximation of z.

Shapes: N vectors, W latent width, L levels, V_l codes on level l, p levels of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.int32]
_ROWS_AT_ONCE = 16_384


def sum_codes(codebooks: Sequence[Floats], codes: Codes) -> Floats:
    """Sum of the code vectors of [N, p] codes: float32 [N, W]."""
    total = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
    for level in range(codes.shape[1]):
        total += codebooks[level][codes[:, level]]
    return total


def code_costs(codebooks: Sequence[Floats], latents: Floats, prefix: Codes) -> Floats:
    """Squared distance from what the prefix [N, p] leaves of each latent to every code of level p: float32 [N, V_p]."""
    rest = latents - sum_codes(codebooks, prefix)
    book = codebooks[prefix.shape[1]]
    squares = (rest**2).sum(axis=1, keepdims=True) + (book**2).sum(axis=1)
    return np.maximum(squares - 2 * rest @ book.T, 0)


def nearest_codes(codebooks: Sequence[Floats], latents: Floats) -> Codes:
    """The nearest code on each level in turn: int32 [N, L]; of equally near codes the lowest."""
    codes = np.empty((len(latents), len(codebooks)), dtype=np.int32)
    for start in range(0, len(latents), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        for level in range(len(codebooks)):
            codes[rows, level] = code_costs(codebooks, latents[rows], codes[rows, :level]).argmin(axis=1)
    return codes


def default_sizes(n_items: int, levels: int = 3) -> tuple[int, ...]:
    """Codes a level for a catalogue: the smallest power of two (16 at least) that leaves room for 64 N code paths.

    Small codebooks make items share prefixes, which is what a language model learns from; large ones keep items apart,
    and vectors fill few of the paths: on 12,101 Beauty items 64 codes a level leave 37% of the items to be moved off a
    taken path, 128 leave 19%, 256 leave 10%, while prefixes of two codes hold 5.6, 2.4 and 1.6 items on average. The
    factor of 64 takes the middle: 32 codes a level for 300 items, 128 for 12,000, 256 for 200,000, 512 for 2,000,000.
    """
    size = 16
    while size**levels < 64 * n_items:
        size *= 2
    return (size,) * levels
