"""Residual k-means: each level's codes are the k-means centres of what the levels before it left over.

As RQ-k-means in OneRec (arXiv 2502.18965) and GRID (arXiv 2507.22224), which finds it no worse than an RQ-VAE.

With several codebooks, as in Mixture-of-Codes (arXiv 2410.09560), the vectors are rotated at random and cut into as
many parts; level l codes part l mod C alone, so codebooks are independent and one trie holds them all. Turned back,
the centres of a part are orthogonal to those of every other, so that encoding by residuals needs to know of none.

Shapes: N vectors, D input width (the latent width W is D), L levels, V_l codes on level l, C codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from genrec.semtok.arrays import Spec
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.residual import Codes, Floats, code_costs, nearest_codes, sum_codes
from genrec.semtok.quantizers.state import load_arrays, load_config, save_state

_FULL_BATCH_ROWS = 100_000


class ResidualKMeans:
    """A fitted residual k-means quantiser; see `genrec.semtok.quantizers.Quantizer` for what its methods promise."""

    name = "residual_kmeans"

    def __init__(self, codebooks: Sequence[Floats]) -> None:
        self.codebooks = list(codebooks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes on each level."""
        return tuple(len(book) for book in self.codebooks)

    def latents(self, vectors: Floats) -> Floats:
        """The vectors themselves: k-means works in the input space."""
        if vectors.shape[1] != self.codebooks[0].shape[1]:
            raise InputError(
                f"quantizer: vectors of width {vectors.shape[1]}, fitted on width {self.codebooks[0].shape[1]}"
            )
        return vectors

    def encode(self, vectors: Floats) -> Codes:
        """[N, D] to codes int32 [N, L]."""
        return nearest_codes(self.codebooks, self.latents(vectors))

    def code_costs(self, latents: Floats, prefix: Codes) -> Floats:
        """Latents [N, W] and prefixes [N, p] to the cost of each code of level p, float32 [N, V_p]."""
        return code_costs(self.codebooks, latents, prefix)

    def decode(self, codes: Codes) -> Floats:
        """Codes [N, L] to the approximated vectors, float32 [N, D]."""
        return sum_codes(self.codebooks, codes)

    def save(self, folder: Path) -> None:
        """Write `quantizer.safetensors` and the part `quantizer` of `config.json`."""
        tensors = {f"codebook_{level}": book for level, book in enumerate(self.codebooks)}
        save_state(folder, {"name": self.name, "levels": len(self.codebooks)}, tensors)

    @classmethod
    def load(cls, folder: Path) -> ResidualKMeans:
        """Read what `save` wrote; raises InputError where it is missing or foreign."""
        levels = load_config(folder, cls.name).get("levels")
        if not isinstance(levels, int) or not 0 < levels <= 26:
            raise InputError(f"{folder}: not a saved {cls.name} quantiser ({levels!r} levels)")
        spec: Spec = {f"codebook_{level}": ("float32", (f"V_{level}", "D")) for level in range(levels)}
        books = load_arrays(folder, cls.name, spec)
        return cls([books[name] for name in spec])


def fit_codebooks(
    latents: Floats, sizes: Sequence[int], seed: int, iterations: int = 100, parts: int = 1
) -> list[Floats]:
    """k-means centres of the residuals, level after level: one float32 [V_l, W] a level, deterministic by seed.

    Args:
        latents: [N, W].
        sizes: V_l.
        parts: C, codebooks whose levels alternate.

    Raises:
        InputError: more parts than levels or dimensions.
    """
    if parts > min(len(sizes), latents.shape[1]):
        most = f"{len(sizes)} levels and {latents.shape[1]} dimensions"
        raise InputError(f"--semtok.residual_kmeans.codebooks {parts}: must be at most the {most}")
    rest = np.ascontiguousarray(latents, dtype=np.float32)
    axes = None if parts == 1 else np.array_split(_rotation(latents.shape[1], seed), parts, axis=1)
    codebooks: list[Floats] = []
    for level, size in enumerate(sizes):
        if axes is None:
            book = _centres(rest, size, seed + level, iterations)
        else:
            part = axes[level % parts]  # [W, W / C]
            book = _centres(np.ascontiguousarray(rest @ part), size, seed + level, iterations) @ part.T
        codebooks.append(book)
        rest = rest - book[nearest_codes([book], rest)[:, 0]]
    return codebooks


def _rotation(width: int, seed: int) -> Floats:
    """A random orthogonal matrix float32 [W, W]."""
    drawn = np.random.default_rng(seed).normal(size=(width, width))
    return np.linalg.qr(drawn).Q.astype(np.float32)


def _centres(rows: Floats, size: int, seed: int, iterations: int) -> Floats:
    distinct = np.unique(rows, axis=0) if len(rows) <= 4 * size else rows
    clusters = min(size, len(distinct))
    if clusters == len(distinct):
        centres: NDArray[np.float32] = distinct
    else:
        method = KMeans if len(rows) <= _FULL_BATCH_ROWS else MiniBatchKMeans
        options = {"batch_size": 16_384} if method is MiniBatchKMeans else {}
        # Threads add up a cluster's rows in whatever order they finish: one thread gives the same centres each time.
        with threadpool_limits(1, user_api="openmp"):
            fitted = method(clusters, n_init=1, max_iter=iterations, random_state=seed, **options).fit(rows)
        centres = fitted.cluster_centers_.astype(np.float32)
    # A level with more codes than distinct rows keeps the rest for later items.
    return np.ascontiguousarray(np.concatenate([centres, spread_like_rows(rows, size - clusters, seed)]))


def spread_like_rows(rows: Floats, count: int, seed: int) -> Floats:
    """Code vectors for codes that no item has, drawn with mean and spread of the rows [N, D]: float32 [count, D]."""
    drawn = np.random.default_rng(seed).normal(rows.mean(axis=0), rows.std(axis=0), (count, rows.shape[1]))
    return drawn.astype(np.float32)
